"""The command line: one file per command, no heavy import before a command needs it."""
