"""Text from and to people: counted, made safe, printed, read as plain YAML. Knows nothing of studies."""
