"""The report as typed, plain data: what report.json holds."""
