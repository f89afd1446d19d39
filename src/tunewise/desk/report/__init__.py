"""The report: records -> view -> charts, HTML, text."""
