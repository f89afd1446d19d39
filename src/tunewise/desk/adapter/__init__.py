"""Views and terminal output of adapters on disk."""
