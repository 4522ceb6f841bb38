"""Trials and sweeps: many runs of one recipe, planned first, finished whatever happens, ending in one answer."""
