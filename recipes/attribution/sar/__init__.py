"""SAR: how unsure a model is of an answer, its tokens and samples weighted by relevance."""
