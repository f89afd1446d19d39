"""Metrics as sums over rows, and the stored scores that they are computed from."""
