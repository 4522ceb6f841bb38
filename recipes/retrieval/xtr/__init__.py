"""XTR: passages found and scored by the tokens that a search returns, and no others."""
