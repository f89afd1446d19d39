"""The current standing of a study: its state, declarations, looks and verdicts."""
