"""Files from outside that a study reads: data folders, their cards, paths named in files, and files that change."""
