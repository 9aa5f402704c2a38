"""The version, kept here only."""

__version__ = "0.6.0"
