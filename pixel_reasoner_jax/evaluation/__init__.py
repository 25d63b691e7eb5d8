"""Evaluation: figures, benchmarks, and pages that show what a policy does."""
