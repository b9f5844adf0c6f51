"""The subcommands: arguments, checks, and a call of the code that does the work."""
