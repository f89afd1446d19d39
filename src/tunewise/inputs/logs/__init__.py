"""Logs of evaluations by other programs: one score per item of one run."""
