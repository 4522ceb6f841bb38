"""Retrieval as data and measure: collections, rankings and their measures, BM25, what a retriever learns from.

config          the collections: leads of Wikipedia, a user's folder in the layout of BEIR; training pairs
collection      passages, queries, judgements
leads, beir     where they come from; `load` reads the one that a config describes
rankings        an order of passages per query; TREC runs read and written
measures        nDCG, MRR, recall of each query, by `ir_measures`; `measure_names` checks their names, without torch
bm25            an index of terms
pairs           queries with passages that a retriever learns from; the loss over all passages of a step

May import `evaluation` and what stands below it.
"""
