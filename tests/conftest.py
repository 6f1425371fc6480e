"""`pytest -n 2` runs the tests in two processes (pytest-xdist), which share the processors."""

import os


def pytest_configure(config):
    # Threads that wait for those of the other process are to sleep: awake, they make either take three times as long.
    if getattr(config.option, "numprocesses", None):
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
