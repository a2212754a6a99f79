"""Masks from the features of a picture's cells: clusters and normalised cuts, snapped to the picture's own edges.

Arrays in, masks out; where features come from, this room does not know (`pipelines.foreign.features` runs the network).
"""
