"""Verdicts on what others trained: per-sample logs of runs, paired, judged and shown."""
