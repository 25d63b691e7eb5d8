"""Measurements of speed, beside PyTorch's where it does the same work."""
