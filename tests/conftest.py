"""What every test shares: published data in place, one torch thread, and an empty parameter store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyro
import pytest
import torch
from hypothesis import HealthCheck, settings

TRUTH = Path(__file__).resolve().parent.parent.parent / "shared" / "truth" / "data"

# torch's first call in a process is slow, so that a deadline per example would fail at random
settings.register_profile("latentvars", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("latentvars")


def pytest_configure() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def truth() -> Path:
    """The folder of published data; tests that need it are skipped where it is missing."""
    if not TRUTH.is_dir():
        pytest.skip(f"the published data are not in {TRUTH}")
    return TRUTH


@pytest.fixture(autouse=True)
def parameter_store_stays_empty() -> Iterator[None]:
    """Pyro's global parameter store is never used, so that two models cannot share a parameter by name."""
    yield
    names = sorted(pyro.get_param_store().keys())
    pyro.clear_param_store()
    assert not names, f"parameters left in Pyro's global store: {names}"
