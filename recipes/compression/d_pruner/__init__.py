"""D-Pruner: weights kept for what they do to text at large and to the text of one domain."""
