"""Language and vision-language models, encoders, adapters and tokenizers; the output head that all losses ask; what a
transformer is made of, what its attention looks at and what it costs; its KV cache; nearest neighbours.

May import `runs` (a finished run is a model, too) and what stands below it.
"""
