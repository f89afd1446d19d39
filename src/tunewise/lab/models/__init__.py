"""Base models and tokenizers: loaded, checked, and made ready for packed batches and mixed precision."""
