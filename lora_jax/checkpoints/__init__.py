"""Files of weights, one format per module."""
