"""Tiny models of all classes."""

from typing import Any

import torch

from reformer.models import (
    ReformerConfig,
    ReformerForCausalLM,
    ReformerForConditionalGeneration,
    ReformerForMaskedLM,
    ReformerForQuestionAnswering,
    ReformerForSequenceClassification,
    ReformerForTokenClassification,
    ReformerModel,
)
from tests.over import over

CLASSES: list[Any] = [
    ReformerModel,
    ReformerForCausalLM,
    ReformerForMaskedLM,
    ReformerForSequenceClassification,
    ReformerForTokenClassification,
    ReformerForQuestionAnswering,
    ReformerForConditionalGeneration,
]


def tiny(kind: Any = ReformerForCausalLM, **changes: Any) -> Any:
    """A model in evaluation; the same weights for the same settings."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "vocab_size": 40,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "window": 4,
        "local_window": 4,
        "pad_token_id": 0,
        "eos_token_id": 1,
    }
    causal = {"causal": kind in (ReformerForCausalLM, ReformerForConditionalGeneration)}
    return kind(ReformerConfig(**over({**settings, **causal}, changes))).eval()


def inputs_of(model: Any, length: int = 12) -> dict[str, torch.Tensor]:
    """Tokens for a model, the same each time."""
    ids = torch.randint(2, 40, (2, length), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, **({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {})}
