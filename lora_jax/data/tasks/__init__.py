"""Tasks, one family per module."""
