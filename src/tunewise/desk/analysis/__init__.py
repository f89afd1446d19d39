"""Analyses of records beyond the verdict: curves, forgetting, best rates, rank, costs."""
