"""What processes tell each other."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixel_reasoner_jax.parallel import all_gather, hosts


@pytest.mark.parametrize(
    "values",
    [np.int64(3 * 2**35 + 7), np.array([[1.0 + 2.0**-40, -1e300]]), np.array([1, 2], np.int32), np.array([True])],
)
def test_values_of_all_processes_come_whole(monkeypatch, values):
    """Also those of 64 bits, which JAX's arrays do not have, such as the free bytes of a device."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    gather = lambda given: np.stack([np.asarray(jnp.asarray(given))] * 2)  # noqa: E731
    monkeypatch.setattr(hosts.multihost_utils, "process_allgather", gather)
    found = all_gather(values)
    assert found.shape == (2, *np.shape(values)) and found.dtype == values.dtype
    np.testing.assert_array_equal(found, np.stack([values] * 2))
