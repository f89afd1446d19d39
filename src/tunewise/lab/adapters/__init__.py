"""Adapters from any folder: put onto their base, merged into it, scored beside it."""
