"""Needs of a study: the training step itself, traced on tensors without storage."""
