"""The subcommands: parse and check arguments, then call the code that does the work."""
