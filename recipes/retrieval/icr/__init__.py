"""In-context re-ranking: passages by the attention that a query pays them."""
