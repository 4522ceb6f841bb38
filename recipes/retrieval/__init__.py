"""Methods that weigh passages, terms and tokens when something is searched for.

The summaries of `edu_rerank` are searched for, too: among plans of what they say.

config        the collections: leads of Wikipedia, a user's folder in the layout of BEIR
collection    passages, queries, judgements
leads, beir   where they come from
first_stage   candidates of each query: BM25, a sentence encoder, a run of the user's
rankings      an order of passages per query; TREC runs read and written
measures      nDCG, MRR, recall of each query, by `ir_measures`
reranked      what a re-ranking did, for people
windows       lists that are longer than a prompt, in windows from the tail to the head
encoders      a BERT-type encoder that is trained; vectors of the tokens of many texts
pairs         what a retriever learns from; losses over all queries and passages of a batch
listwise      prompts of a list of passages, and where in the tokens each of them stands
letters/      orders by the letters that name the passages of a prompt: read, written, learnt
"""
