"""The options of every config: kind, range, default and meaning, and the check of their names."""
