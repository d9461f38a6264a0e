"""The Triton kernels on a GPU or, without one, in Triton's interpreter: `make gpu-test`, `make interpreter-test`.

The interpreter has to be chosen before triton is imported, so these tests have a process of their own. They ask for
nothing but PyTorch, triton and pytest.
"""

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import bare

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for deterministic products, which tests ask for
ON_GPU = torch.cuda.is_available()
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def pytest_report_header() -> str:
    return f"kernels on {'a GPU' if ON_GPU else 'a CPU, interpreted'}; sources: {bare.SOURCES}"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--part", default="0/1", help="1/4: the second of four parts, each in a process of its own")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    part, parts = (int(number) for number in config.getoption("--part", "0/1").split("/"))
    items[:] = items[part::parts]
    reason = None
    if importlib.util.find_spec("triton") is None:
        reason = "triton is not installed"
    elif not ON_GPU and not INTERPRETED:
        reason = "there is no GPU; TRITON_INTERPRET=1 runs these tests in Triton's interpreter"
    for item in items:
        if item.path.parent.name == "gpu" and reason:
            item.add_marker(pytest.mark.skip(reason=reason))
        elif item.get_closest_marker("gpu") and not ON_GPU:
            item.add_marker(pytest.mark.skip(reason="there is no GPU"))


@pytest.fixture(autouse=True)
def one_configuration(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Tuning would compile every kernel several times for each test; a test may have a `configuration`, a number."""
    called = getattr(request.node, "callspec", None)
    number = called.params.get("configuration", 0) if called else 0
    from reformer.ops.gpu import backward, forward, fused, hashing

    kernels = (
        forward.attend_tiles,
        backward.differentiate_queries,
        backward.differentiate_keys,
        fused.attend_runs,
        fused.differentiate_tiles,
        hashing.hash_octaves,
    )
    for kernel in kernels:
        monkeypatch.setattr(kernel, "configs", [kernel.configs[number % len(kernel.configs)]])


@pytest.fixture
def device() -> str:
    return "cuda" if ON_GPU else "cpu"


@pytest.fixture(autouse=True)
def quick_interpreter(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Let torch sort where sorting is not the matter: the interpreter takes some steps one number at a time."""
    if INTERPRETED:
        from reformer.ops.gpu import order

        monkeypatch.setattr(order, "BLOCK", 32)
        if "order" not in request.node.name:
            monkeypatch.setattr(order, "PASSES", 0)


if INTERPRETED and importlib.util.find_spec("triton") is not None:
    import triton.language as tl
    from triton.runtime import interpreter

    # The interpreter patches triton.language anew at each call of a function inside a kernel, which takes twice as
    # long as the rest. Once a launch, for both names of the module, does.
    patch = interpreter._patch_lang

    def patch_both(fn: Any) -> Any:
        scope = patch(fn)
        patch(type("core", (), {"__globals__": {"core": tl.core}}))
        return scope

    interpreter._patch_lang = patch_both
    interpreter.InterpretedFunction.__call__ = lambda self, *a, **k: self.rewrite()(*a, **k)
