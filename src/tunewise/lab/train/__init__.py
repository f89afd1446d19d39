"""The one loop and its parts."""
