"""Models on transformers' base classes; importing this package registers them with the Auto classes."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from reformer.models.cache import ReformerCache
from reformer.models.cache_file import load_cache, save_cache
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
from reformer.models.model import ReformerModel, ReformerModelOutput, ReformerPreTrainedModel
from reformer.models.reformer_lm import ReformerLM

AutoConfig.register(ReformerConfig.model_type, ReformerConfig, exist_ok=True)
for _auto, _model in (
    (AutoModel, ReformerModel),
    (AutoModelForCausalLM, ReformerForCausalLM),
    (AutoModelForMaskedLM, ReformerForMaskedLM),
    (AutoModelForSequenceClassification, ReformerForSequenceClassification),
    (AutoModelForTokenClassification, ReformerForTokenClassification),
    (AutoModelForQuestionAnswering, ReformerForQuestionAnswering),
    (AutoModelForSeq2SeqLM, ReformerForConditionalGeneration),
):
    _auto.register(ReformerConfig, _model, exist_ok=True)

__all__ = [
    "DryLogitsProcessor",
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
    "load_cache",
    "save_cache",
]
