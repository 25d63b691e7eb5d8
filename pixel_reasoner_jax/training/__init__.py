"""Losses, advantages, packing and the training loops of both phases."""
