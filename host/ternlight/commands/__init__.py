"""The subcommands of the `ternlight` command line, one module each."""
