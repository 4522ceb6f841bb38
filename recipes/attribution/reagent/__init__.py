"""ReAGent beside gradients, attention, occlusion and chance: which tokens a prediction came from."""
