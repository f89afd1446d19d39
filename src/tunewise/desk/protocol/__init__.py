"""Which runs come next: a pure function of the study and its records."""
