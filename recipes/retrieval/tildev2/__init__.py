"""The recipe `tildev2`: passages as weighed terms, so that a query needs no model."""
