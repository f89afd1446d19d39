"""Text from and to people: counted, made safe, printed, read as plain YAML; the product is not known here."""
