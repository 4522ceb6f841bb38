"""Recycled Attention: most steps attend to the keys that the last full step found important."""
