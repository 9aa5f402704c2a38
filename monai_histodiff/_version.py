"""The version, kept here only."""

__version__ = "0.29.0"
