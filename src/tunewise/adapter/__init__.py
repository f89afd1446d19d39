"""Reading, checking and writing a LoRA adapter on disk, without torch."""
