"""Language model cascades: when a small model's answer is good enough."""
