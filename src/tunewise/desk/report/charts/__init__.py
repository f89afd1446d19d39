"""The report's figures, as declarations that become SVG."""
