"""Fixtures that tests of evaluations share with those of the rooms below."""

from tests.endpoint.conftest import connect, server  # noqa: F401
