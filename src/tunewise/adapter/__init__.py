"""A LoRA adapter on disk, read, checked and written without torch."""
