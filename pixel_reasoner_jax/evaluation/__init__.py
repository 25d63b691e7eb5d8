"""Evaluation: a policy answers queries, and its responses become figures."""
