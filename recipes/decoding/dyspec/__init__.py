"""DySpec: draft trees that grow where the draft model is confident, verified without a change of the distribution."""
