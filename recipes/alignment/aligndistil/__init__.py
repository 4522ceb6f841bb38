"""AlignDistil: a policy learns from two others, extrapolated token by token."""
