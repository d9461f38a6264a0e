"""Models on transformers' base classes; importing this package registers them with the Auto classes."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from reformer.models.cache import ReformerCache
from reformer.models.cache_file import load_cache, save_cache
from reformer.models.causal_lm import ReformerCausalLMOutput, ReformerForCausalLM
from reformer.models.config import ReformerConfig
from reformer.models.model import ReformerModel, ReformerPreTrainedModel
from reformer.models.reformer_lm import ReformerLM

AutoConfig.register(ReformerConfig.model_type, ReformerConfig, exist_ok=True)
AutoModel.register(ReformerConfig, ReformerModel, exist_ok=True)
AutoModelForCausalLM.register(ReformerConfig, ReformerForCausalLM, exist_ok=True)

__all__ = [
    "ReformerCache",
    "ReformerCausalLMOutput",
    "ReformerConfig",
    "ReformerForCausalLM",
    "ReformerLM",
    "ReformerModel",
    "ReformerPreTrainedModel",
    "load_cache",
    "save_cache",
]
