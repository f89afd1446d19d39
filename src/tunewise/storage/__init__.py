"""The study folder on disk: its layout, writes that a crash cannot halve, seals, the lock, the gate against links."""
