"""What a study reads and strangers made: data folders, their cards, paths that files name, files that change."""
