"""The version, kept here only."""

__version__ = "0.20.0"
