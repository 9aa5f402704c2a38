"""The version, kept here only."""

__version__ = "0.18.0"
