"""Engines that run Beam jobs: their options, and what is refused before a job starts."""
