"""The report, the check, the plan and the list as text in a terminal."""
