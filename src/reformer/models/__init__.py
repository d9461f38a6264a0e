"""Models on transformers' base classes; importing this package registers them with the Auto classes."""

import transformers
from transformers.models.auto import modeling_auto

from reformer.models.cache import ReformerCache
from reformer.models.cache_copy import FrozenCache
from reformer.models.cache_file import load_cache, save_cache
from reformer.models.cache_rows import CacheRows
from reformer.models.causal_lm import ReformerCausalLMOutput, ReformerForCausalLM
from reformer.models.config import ReformerConfig
from reformer.models.dry import DryLogitsProcessor
from reformer.models.encoder_decoder import ReformerConditionalGenerationOutput, ReformerForConditionalGeneration
from reformer.models.heads import (
    ReformerForMaskedLM,
    ReformerForQuestionAnswering,
    ReformerForSequenceClassification,
    ReformerForTokenClassification,
)
from reformer.models.model import ReformerModel, ReformerModelOutput
from reformer.models.pretrained import ReformerPreTrainedModel
from reformer.models.reformer_lm import ReformerLM
from reformer.models.sequence_parallel import SequenceParallel

transformers.AutoConfig.register(ReformerConfig.model_type, ReformerConfig, exist_ok=True)
for _auto, _name, _model in (
    (transformers.AutoModel, "", ReformerModel),
    (transformers.AutoModelForCausalLM, "FOR_CAUSAL_LM_", ReformerForCausalLM),
    (transformers.AutoModelForMaskedLM, "FOR_MASKED_LM_", ReformerForMaskedLM),
    (
        transformers.AutoModelForSequenceClassification,
        "FOR_SEQUENCE_CLASSIFICATION_",
        ReformerForSequenceClassification,
    ),
    (transformers.AutoModelForTokenClassification, "FOR_TOKEN_CLASSIFICATION_", ReformerForTokenClassification),
    (transformers.AutoModelForQuestionAnswering, "FOR_QUESTION_ANSWERING_", ReformerForQuestionAnswering),
    (transformers.AutoModelForSeq2SeqLM, "FOR_SEQ_TO_SEQ_CAUSAL_LM_", ReformerForConditionalGeneration),
):
    _auto.register(ReformerConfig, _model, exist_ok=True)
    # the Trainer's label smoothing and pipelines ask by name
    getattr(modeling_auto, f"MODEL_{_name}MAPPING_NAMES")[ReformerConfig.model_type] = _model.__name__

__all__ = [
    "CacheRows",
    "DryLogitsProcessor",
    "FrozenCache",
    "ReformerCache",
    "ReformerCausalLMOutput",
    "ReformerConditionalGenerationOutput",
    "ReformerConfig",
    "ReformerForCausalLM",
    "ReformerForConditionalGeneration",
    "ReformerForMaskedLM",
    "ReformerForQuestionAnswering",
    "ReformerForSequenceClassification",
    "ReformerForTokenClassification",
    "ReformerLM",
    "ReformerModel",
    "ReformerModelOutput",
    "ReformerPreTrainedModel",
    "SequenceParallel",
    "load_cache",
    "save_cache",
]
