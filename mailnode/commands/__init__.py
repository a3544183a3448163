"""The command line's commands, one noun a file."""
