"""How transformers' `generate` comes by a cache here: any class named Reformer gets none from it."""

from typing import Any

from torch import Tensor
from transformers import GenerationConfig, GenerationMixin
from transformers.generation.configuration_utils import GenerationMode
from transformers.utils import logging

from reformer.models.cache import ReformerCache, why_not_cached
from reformer.models.config import ReformerConfig

logger = logging.get_logger(__name__)


class ReformerGenerationMixin(GenerationMixin):
    """`generate` over a `ReformerCache`; a model that has none computes its whole text at each step, exactly."""

    config: ReformerConfig
    training: bool

    def _prepare_cache_for_generation(  # type: ignore[override]
        self,
        generation_config: GenerationConfig,
        model_kwargs: dict[str, Any],
        generation_mode: GenerationMode,
        batch_size: int,
        max_cache_length: int,
    ) -> None:
        if generation_config.cache_implementation not in (None, "dynamic"):
            raise ValueError(
                f"cache_implementation={generation_config.cache_implementation!r}: this model has a cache of its own; "
                "leave it out"
            )
        if model_kwargs.get("past_key_values") is not None:
            model_kwargs["past_key_values"]._is_user_defined = True  # transformers then leaves it to its owner
            return
        if generation_config.use_cache is False:
            return
        reason = why_not_cached(self.config.settings)
        if self.training:
            reason = "a model in training mode, which draws new hashes each time (call model.eval())"
        if reason:
            if generation_mode == GenerationMode.ASSISTED_GENERATION:
                raise ValueError(
                    f"assisted and prompt-lookup decoding need a cache, which this model has not ({reason})"
                )
            logger.warning_once(f"every token is computed from the whole text again: no cache is exact with {reason}")
            generation_config.use_cache = model_kwargs["use_cache"] = False
            return
        model_kwargs["past_key_values"] = ReformerCache(self.config, room=max_cache_length)

    def prepare_inputs_for_generation(  # type: ignore[override]
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        past_key_values: ReformerCache | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Only new tokens with a cache; the whole text without."""
        if not input_ids.shape[1] and inputs_embeds is None:
            raise ValueError("the prompt is empty; give at least one token")
        if past_key_values is None:
            next_sequence_length = None
        for name in ("tokenizer", "assistant_tokenizer"):  # of stop strings; transformers hands them on to the forward
            kwargs.pop(name, None)
        return super().prepare_inputs_for_generation(  # type: ignore[misc]
            input_ids,  # type: ignore[arg-type]
            next_sequence_length,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
