"""Fresh memory is NaN in every test, so that reading what nobody wrote shows."""

import os
import tempfile
from collections.abc import Iterator

import pytest
import torch

if os.environ.get("REFORMER_CHECK_SHAPES"):
    from tests.shapes import install, shapes_fit  # noqa: F401

    install()

_CACHE = tempfile.TemporaryDirectory(prefix="reformer-tests-")
os.environ["HF_DATASETS_CACHE"] = _CACHE.name  # before `datasets` is loaded; processes that tests start inherit it


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(0)
