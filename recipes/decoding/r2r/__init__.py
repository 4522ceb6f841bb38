"""R2R: a small model writes, and a large one rewrites the tokens that would lead elsewhere."""
