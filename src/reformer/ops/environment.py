"""What environment variables say of who computes."""

import os

from reformer.ops.checks import check_choice

BACKENDS = ("auto", "plain", "numba", "triton")

PREFERENCE = "REFORMER_BACKEND"
"""An environment variable that says what "auto" is, for programs that call models."""


def preferred() -> str:
    """What the environment says of "auto"; InputError for a backend that does not exist."""
    name = os.environ.get(PREFERENCE, "auto")
    check_choice(PREFERENCE, name, BACKENDS)
    return name


def interpreted() -> bool:
    """Whether Triton's kernels run in its interpreter, on a CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"
