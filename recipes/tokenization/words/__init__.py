"""Models that read bytes, characters or pieces and pool them to words, and flat models of the same text beside them.

config      the model, its text, what is measured, the run; they import no torch
names       of what is measured
splitting   text into words by a causal rule
perturbing  text with errors
units       words into bytes, characters, pieces or numbers of words
method      what a model costs, windows of a context; pure functions
corpus      training documents as words, and the windows that a step reads
model       encoder, backbone and decoder over words
reading     bits of each word of a text under either kind of model
measures    what a run says of held-out text
files       what people look at: words and their bits, text that a model goes on with
experiment  the run: two recipes differ in its config only
"""
