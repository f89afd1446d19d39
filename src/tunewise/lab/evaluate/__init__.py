"""Scores: per example, the sufficient statistics of every metric."""
