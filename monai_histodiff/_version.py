"""The version, kept here only."""

__version__ = "0.22.0"
