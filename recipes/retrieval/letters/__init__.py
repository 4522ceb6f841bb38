"""Listwise ranking by letters: passages of a prompt are named A, B, C, and a model says which name comes first.

config      prompts, how an order is read off the model, how the model is tuned. Imports no torch
prompts     a list of passages as a prompt, an order of them as its answer, and back
orders      an order from the logits of names; what a server's few logits leave of it
reading     orders of whole lists: windows of many queries side by side, forwards counted
losses      rank losses of one prompt's logits, by a teacher's ranks
lists       lists with a teacher's order, as items of training
objective   LM loss of the answer and rank loss of its first token, and the same read off held-out lists
experiment  tune, rank, measure: what recipes of this kind share
"""
