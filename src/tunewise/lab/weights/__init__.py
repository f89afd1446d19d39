"""How a model's weights are stored: in fp32, in bf16, or in 4 bits."""
