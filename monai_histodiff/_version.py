"""The version, kept here only."""

__version__ = "0.7.0"
