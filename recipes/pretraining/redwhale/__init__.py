"""RedWhale: an English model adapted to another language by new tokens, their rows, and training in stages."""
