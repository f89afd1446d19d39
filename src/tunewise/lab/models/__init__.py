"""Base models and tokenizers: loaded, checked, and prepared for packed batches."""
