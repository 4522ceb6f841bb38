"""Methods that ask which parameters deserve their bits: what is set to zero, and what is rounded.

config       texts that a model is calibrated and measured on; imports no torch
linears      the linear layers of a model's blocks, as matrices [out, in]
walk         a model run block by block: inputs of linear layers, and gradients, with one block in memory at a time
calibration  sequences drawn by seed from training documents, held-out ones to measure on, effective sample size
hessians     of the squared error of a layer's output; their damped inverse
solvers      one column set at a time, the error made up for in those to come
perplexity   what held-out text costs, per sequence
compressed   the model that is left: zeros and bits counted, and a folder that transformers loads alone
"""
