"""Fixtures that tests of evaluations share with those of the rooms below."""

from tests.data_pipeline.conftest import processor, registry, world_directory  # noqa: F401
from tests.endpoint.conftest import connect, server  # noqa: F401
from tests.rollout.conftest import policy, queries, world  # noqa: F401
