"""One run: its sequence on one screen, its stages, and their common context."""
