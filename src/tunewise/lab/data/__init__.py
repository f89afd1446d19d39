"""From files to token examples: sources, rendering, splits, the audit."""
