"""What records say beyond the verdict: curves, forgetting, best rates, rank, costs."""
