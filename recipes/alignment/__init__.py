"""Alignment methods: which tokens of an answer carry a preference.

What the recipes of this family share, in the order in which a run passes it:

config                                    keys of all of them; imports no torch
rows, layouts, examples                   users' rows, columns of public data sets; a row as token ids
preferences, stored                       data set of users' own pairs; pairs on disk, mapped into memory
sentiment, corrupted, arithmetic          data sets that are made in the run; `selection` picks pairs among samples
pairs, mismatched                         pairs as token ids, their batches; answers behind the prompts of others
reference, reference_scores               the frozen model; what losses read of it, kept or computed beside a step
data                                      all of the above from one config
losses, objectives                        17 preference losses with one hook for token weights; on the shared trainer
trained                                   a policy that is trained before that of the run
experiment                                the run itself, loss aside: what a recipe calls
evaluation, heatmaps                      what is measured, and what each token weighs
"""
