"""One vision-language model for several numbers of visual tokens (TokenFLEX)."""
