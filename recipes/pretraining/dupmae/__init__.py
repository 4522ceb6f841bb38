"""DupMAE: two weak decoders make an encoder's [CLS] vector and its ordinary tokens carry a passage each."""
