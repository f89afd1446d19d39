"""What a study will need, found before anything is loaded: the step of training itself, on tensors without storage."""
