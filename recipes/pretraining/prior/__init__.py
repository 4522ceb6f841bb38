"""PRIOR: caption tokens weighted by how badly a text-only reference predicts them."""
