"""Methods that weigh passages, terms and tokens when something is searched for.

The summaries of `edu_rerank` are searched for, too: among plans of what they say.

Collections, rankings and their measures, BM25 and training pairs are the core's (`recipes.core.search`).

config        candidates, encoders of tokens
first_stage   candidates of each query: BM25, a sentence encoder, a run of the user's
reranked      what a re-ranking did, for people
windows       lists that are longer than a prompt, in windows from the tail to the head
encoders      a BERT-type encoder that is trained; vectors of the tokens of many texts
listwise      prompts of a list of passages, and where in the tokens each of them stands
letters/      orders by the letters that name the passages of a prompt: read, written, learnt
"""
