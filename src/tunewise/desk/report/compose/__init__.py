"""From the state of a study to the report's views."""
