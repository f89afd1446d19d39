"""Intervals and verdicts. Nothing here knows a study folder."""
