"""Experiments that a command repeats: what was run, and what came of it."""
