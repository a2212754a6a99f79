"""Where and in what order it runs: sources, plan, build, Beam graph, commands. Imports `schemas` and `masks`."""
