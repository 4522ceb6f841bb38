"""Turkish tokenization: do linguistic scores of a tokenizer predict how well a model does that is trained with it?"""
