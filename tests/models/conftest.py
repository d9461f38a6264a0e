from collections.abc import Callable
from typing import Any

import pytest
import torch

from reformer.models import ReformerConfig, ReformerForCausalLM
from tests.over import over

Make = Callable[..., ReformerForCausalLM]


@pytest.fixture
def make() -> Make:
    """A small model; the same weights for the same settings."""

    def build(dtype: torch.dtype = torch.float64, **settings: Any) -> ReformerForCausalLM:
        small: dict[str, Any] = {
            "vocab_size": 40,
            "hidden_size": 16,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "window": 4,
            "local_window": 6,
            "num_hashes": 2,
            "pad_token_id": 0,
        }
        torch.manual_seed(0)
        return ReformerForCausalLM(ReformerConfig(**over(small, settings))).to(dtype)

    return build
