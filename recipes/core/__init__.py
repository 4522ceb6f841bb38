"""What recipes share, in rooms. An import only ever points down this list; no room knows a recipe or the command line.

pages            measured numbers on pages, from stored trials
contract         what every recipe owes its users, as checks that its tests run
other_device     a GPU for machines that have none: tensors made in the wrong place fail where CUDA would fail
cuda_autocast    what CUDA casts to bf16 and to float32 where a run trains in bf16, for that device
trial            many runs, one answer: cells, manifest, drive, worker, launch, search, the trial's report
worker           one of the processes of a run
runner           one run: what it would be, and done, finished or reused
execution        the work of a run, from its config to its report
preflight        what a run needs before it starts: this machine, its recipe, models and questions that fit
watching         the training of a run: measured on the way, written into its folder
export           the model of a run as others load it: its folder, its card, its upload, its scores in tasks of lm-eval
report           a run's page; charts, figures, tables and styles of all pages
text_recipe      the base of methods that weight tokens or samples of text: they write the weights, it does the rest
recipe           what the author of a recipe writes: read this first
statistics       intervals, comparison of arms, claims, verdict, price, scaling
search           collections with queries and judgements, rankings and their measures, training pairs
evaluation       scores of examples, curves, data of plots, strips of images, cut texts, importance of tokens
training         the one trainer: arguments, passes, batches, models trained inside a run, several processes
scoring          what a model says about tokens, cached by content; samples
losses           kernels, log-probs, weights, objectives
models           language and vision-language models, encoders, tokenizers, the output head, KV cache, attention taps
runs             the folder of a run: identity, records, checkpoints, tracking, progress
data             what is read: files, text, images, tasks and labelled texts
config           settings, schema, compose, overrides, the registry of recipes
storage          files, locks, seals, cache, packages, assets, the hub
process          this process: its cores, signals, streams, launcher
errors           what went wrong, for people
spelling         what was most likely meant
messages         the only place of the core that prints
"""
