"""Learn your tokens: words pooled to a few vectors, spelt in parallel."""
