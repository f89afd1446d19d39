"""Adapters from a folder, whoever made them: put onto their base, merged into it, scored beside it."""
