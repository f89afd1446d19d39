"""One run: its story on one screen, its stages, and what all of them are handed."""
