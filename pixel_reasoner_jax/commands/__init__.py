"""The `pixel-reasoner` commands: a file for each, `cli` that starts them, `options` that declares what they take."""
