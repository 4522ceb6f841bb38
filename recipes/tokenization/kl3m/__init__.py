"""KL3M tokenizers: BPE of a domain with hand-added tokens, BPE of short tokens, and what each is good for."""
