"""Sample reweighting: each sequence's loss weighted by how large it is among the losses of its batch."""
