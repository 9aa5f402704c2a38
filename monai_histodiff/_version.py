"""The version, kept here only."""

__version__ = "0.21.0"
