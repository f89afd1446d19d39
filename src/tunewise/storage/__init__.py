"""The study folder on disk: layout, crash-safe writes, seals, lock, and protection against links."""
