"""Fixtures that the experiments share with training."""

from tests.training.conftest import start  # noqa: F401
