"""Language and vision-language models, encoders, adapters and tokenizers; the output head that all losses ask.

May import `runs` (a finished run is a model, too) and what stands below it.
"""
