"""Every test of the operations runs on every backend that this machine has."""

import pytest

from reformer.ops import attention
from reformer.ops.backends import choose_backend


@pytest.fixture(autouse=True, params=["plain", "numba"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What "auto" chooses."""
    forced = str(request.param)
    monkeypatch.setattr(
        attention, "choose_backend", lambda name, q, at: choose_backend(forced if name == "auto" else name, q, at)
    )
    return forced
