"""The learner's track: fifteen skills, each with an exercise whose answer is computed on this machine."""
