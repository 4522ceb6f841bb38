"""RSQ: quantisation whose squared errors are weighted by the attention that tokens receive."""
