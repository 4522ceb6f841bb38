"""One run over several processes: started and stopped together, sharing batches, gradients and, if asked, weights."""
