"""Adapters from any folder: loaded onto their base, merged into it, and compared with it."""
