"""The report as one HTML page, and the card of a tuned model."""
