"""Adapters from any folder: loaded onto a base, merged into the base, and compared with the merged model."""
