"""The version, kept here only."""

__version__ = "0.28.0"
