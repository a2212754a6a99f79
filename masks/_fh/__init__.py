"""The FH kernel, one stage a module; `stages` runs them in order, docs/fh.md draws them.

After editing a module here, delete this folder's compiled `__pycache__/*.nb?`: Numba renews a kernel when its own file
changes, not when a kernel it calls does.
"""
