"""The desk turns records into decisions, verdicts and the report. It never imports torch."""
