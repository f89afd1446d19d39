"""Rows out of files, folders and hub ids, a bounded part at a time."""
