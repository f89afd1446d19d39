"""What is said of an adapter on disk."""
