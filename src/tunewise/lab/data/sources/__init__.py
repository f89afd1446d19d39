"""Rows from files, folders and hub ids, read in parts of bounded size."""
