"""DSIR: data selection by importance resampling on hashed n-grams."""
