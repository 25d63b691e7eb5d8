"""Evaluation: a policy answers queries, and figures are computed from its responses."""
