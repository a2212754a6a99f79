"""Representation to masks to representation: is what a network learns of use as masks for the next?"""
