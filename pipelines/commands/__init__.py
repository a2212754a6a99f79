"""One module per command: `add_options(parser)` and `run(args) -> exit code`. Heavy imports belong inside `run`."""
