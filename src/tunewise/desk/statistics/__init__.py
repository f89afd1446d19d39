"""Scores, metrics, intervals and verdicts. Nothing here knows a study folder."""
