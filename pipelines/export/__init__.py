"""A finished data set in the forms of other tools."""
