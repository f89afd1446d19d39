"""What a study will need, before it runs: runs, seconds, a budget, other cards."""
