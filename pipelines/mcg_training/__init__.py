"""Training the models of `mcg` from annotated pictures."""
