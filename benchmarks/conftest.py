"""Measuring must be asked for: without --benchmark-enable every case runs once, on less (test_cases.py)."""

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    """Before pytest-benchmark looks at its options."""
    if not config.option.benchmark_enable:
        config.option.benchmark_disable = True
