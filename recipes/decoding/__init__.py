"""Decoding methods: which tokens a frozen model has to think about, and which of its thoughts to take.

What the recipes of this family share, in the order in which a run passes it:

config, pair_config         prompts, model, length of continuations; a small and a large model; they import no torch
questions, transducers      questions with right answers; models that are trained in the run to answer them
vocabularies                whether two models have the same tokens
experiment                  the run itself, the choice of tokens aside: what a recipe calls
trees                       drafts as trees, read in one forward; the path of them that is accepted
speculation                 draft, read, accept, again
exactness                   whether outputs are those of plain decoding, or draws of a distribution
generations                 what comes out: `generations.jsonl`, token heatmaps
"""
