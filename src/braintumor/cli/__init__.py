"""The command line: one module per group of commands. Nothing else prints."""
