"""Finds what a configured run takes on given chips by compiling it: memory, arithmetic, traffic, and the least time."""
