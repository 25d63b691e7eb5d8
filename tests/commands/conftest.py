"""Fixtures that tests of commands share with those of the rooms that they run."""

from tests.data_pipeline.conftest import registry, world_directory  # noqa: F401
from tests.endpoint.conftest import server  # noqa: F401
from tests.plan.conftest import libtpu  # noqa: F401
