"""The version, kept here only."""

__version__ = "0.26.0"
