"""What a study will need: the step of training itself, followed on tensors without storage."""
