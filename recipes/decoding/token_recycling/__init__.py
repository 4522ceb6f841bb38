"""Token Recycling: drafts from candidates that the model gave before."""
