import importlib.util

import jax
import pytest


@pytest.fixture(autouse=True, scope="session")
def started() -> None:
    """Has JAX count its devices before a test asks for others, which all tests after it would then have."""
    jax.devices()


@pytest.fixture
def libtpu() -> None:
    """Skips a test where the TPU's compiler is not installed."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed: pip install '.[tpu]'")
