"""Fuzzing: what no input may ever do, and the programs that look for one that does."""
