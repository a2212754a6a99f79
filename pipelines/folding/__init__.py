"""Many sidecars folded to few: what a finished data set says of all its images, a piece of it at a time."""
