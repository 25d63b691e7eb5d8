"""A small random model with what it has sampled, once for all tests."""

import pytest

from pixel_reasoner_jax.checks.measure import make_trainer, roll_out
from pixel_reasoner_jax.checks.queries import built_in_queries
from pixel_reasoner_jax.rollout import Policy
from tests.rollout.conftest import world  # noqa: F401

TURN_TOKENS = 8


@pytest.fixture(scope="session")
def checked(world) -> Policy:  # noqa: F811
    return Policy(*world, slots=8, decode_steps=8)


@pytest.fixture(scope="session")
def trainer(checked):
    return make_trainer(checked)


@pytest.fixture(scope="session")
def sampled(checked):
    return roll_out(checked, built_in_queries(), 2, turn_tokens=TURN_TOKENS)
