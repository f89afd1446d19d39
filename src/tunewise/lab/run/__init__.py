"""One run: load, adapt, train, select, save, read back, score, record."""
