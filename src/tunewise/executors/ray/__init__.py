"""Runs on a cluster of Ray: only its actors, none of its trainers or tuners."""
