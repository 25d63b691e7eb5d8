"""The endpoint that captioners ask."""

from tests.endpoint.conftest import connect, server  # noqa: F401
