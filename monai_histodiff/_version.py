"""The version, kept here only."""

__version__ = "0.9.0"
