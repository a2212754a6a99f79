"""A finished folder: its tables, its records, its soundness."""
