"""What every test has: a scrubbed environment, a real Consul, a real nginx."""

import os

import pytest
from hypothesis import settings

from tests.support.process import SCRUBBED

pytest_plugins = [
    "tests.support.consul",
    "tests.support.nginx",
    "tests.support.edge",
    "tests.support.ordeal",
    "tests.support.disk",
    "tests.support.advised",
]

# no test judges by time, and a busy machine is no failure
settings.register_profile("grayctl", deadline=None)
settings.load_profile("grayctl")


@pytest.fixture(autouse=True)
def _scrubbed_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the machine may steer Consul, grayctl or a proxy."""
    for name in [name for name in os.environ if name.startswith(SCRUBBED)]:
        monkeypatch.delenv(name)
