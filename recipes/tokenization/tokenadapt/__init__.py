"""TokenAdapt: a new tokenizer for an old model, each new row composed of old ones, without training."""
