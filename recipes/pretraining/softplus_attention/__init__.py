"""Softplus attention with re-weighting: rows of attention that keep what stands out, however long they are."""
