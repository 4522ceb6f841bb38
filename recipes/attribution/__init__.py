"""Methods that ask which tokens carried an output: why a model wrote it, whether it knew, whether it wrote it."""
