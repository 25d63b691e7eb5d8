"""Where seeds come from. A source is a sequence: `len(source)` and `source[index]`, which gives a `Seed`."""
