"""Trackers: receivers of a study's events."""
