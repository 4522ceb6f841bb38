"""Methods that choose the tokens themselves: a new vocabulary for an old model, and what text costs under any of them.

config        a tokenizer that a run trains or is given; it imports no torch
tokenizers    byte-level BPE from texts, with and without supertokens; tokenizers of the user's
mapping       which tokens two vocabularies share, by the bytes that they stand for
vocabularies  an old and a new one side by side; pieces of unique tokens; rows of shared ones
neighbours    rows from old tokens that are near in some space: softmax of the nearest, sparsemax over shared ones
strings       what tokens say, and vectors of those strings
hypernetwork  rows of new tokens predicted from the rows of the old tokens that spell them; old_rows: what it reads
hypernetwork_training, sampled_tokenizers  how it is trained, once for a model: through tokenizers drawn at random
transplant    a model with a new vocabulary, in memory and as a folder
small_models  small language models trained on given texts with a given tokenizer, by equal steps, bytes or FLOPs
words         models that pool bytes, characters or pieces to words, for two recipes
measures      fertility, compression, boundaries, Renyi efficiency
scripts       which characters of a script are one token, several, or cannot be spelled
edits         Levenshtein's distance and alignment
noise         text as scanners and hasty fingers leave it
pictures      the same text cut by several tokenizers, and boundaries that move under noise

Texts to measure on (`core.data.text.windows`), bits per byte (`core.scoring.bits`), old tokens that spell a new one
(`core.data.text.pieces`) and rows as weighted sums of others (`core.models.rows`) are shared with other families.
"""
