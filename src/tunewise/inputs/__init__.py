"""What strangers made and a study reads: data folders, their cards, paths that a file names, and files that change."""
