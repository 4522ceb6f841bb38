"""RETRO: a decoder that reads what its training texts say in similar places."""
