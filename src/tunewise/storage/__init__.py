"""The study folder on disk: its layout, writes that a crash cannot halve, seals, lock, gate against links."""
