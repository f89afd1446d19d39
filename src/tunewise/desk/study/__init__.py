"""What may be said of a study today: its state, declarations, looks and verdicts."""
