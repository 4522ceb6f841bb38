"""PST: what a transformer keeps of its weights while it is fine-tuned, chosen by low-rank scores."""
