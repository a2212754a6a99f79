"""Masks made elsewhere: the generator `imported`, one reader per family of formats, and how masks find their pictures.

`generator` is what a build calls; `formats` tells the families apart; `results`, `sam`, `mat` and `label_maps` read one
each; `join` says which entry belongs to which picture, once, when the build is planned; `store` keeps what was joined
on disk, so that a worker reads what its picture has and nothing else.
"""
