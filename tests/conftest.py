"""`pytest -n 2` runs the tests in two processes (pytest-xdist), which share the processors."""

import os

import pytest


def pytest_configure(config):
    # Threads that wait for those of the other process are to sleep: awake, they make either take three times as long.
    if getattr(config.option, "numprocesses", None):
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@pytest.fixture(scope="session", autouse=True)
def no_hurry():
    """A gradient check looks at less where the loss is slow; a test of what it finds is to find it on any machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("npvae.examination.perf_counter", lambda: 0.0)
        yield
