"""What a configured run takes on given chips, found by compiling it: memory, arithmetic, traffic, time at least."""
