"""The version, kept here only."""

__version__ = "0.14.0"
