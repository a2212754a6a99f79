"""Where pictures, annotations and masks of others come from: lists of names, bytes, pixels."""
