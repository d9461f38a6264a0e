"""How transformers' `generate` comes by a cache here: any class named Reformer gets none from it."""

import os
from typing import Any

from jaxtyping import Int
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, MaxLengthCriteria, StoppingCriteriaList
from transformers.generation.configuration_utils import GenerationMode
from transformers.utils import logging

from reformer.errors import InputError
from reformer.models.cache import CROP_LIMIT, ReformerCache, why_not_cached
from reformer.models.cache_file import load_cache, save_cache
from reformer.models.cache_name import CACHE
from reformer.models.config import ReformerConfig

DRAFTS = 512
"""Tokens that an assistant may have drafted in vain; the schedules of some grow."""

logger = logging.get_logger(__name__)


class ReformerGenerationMixin(GenerationMixin):
    """`generate` over a `ReformerCache`; a model that has none computes its whole text at each step, exactly."""

    config: ReformerConfig
    training: bool

    def generate(
        self,
        *args: Any,
        past_key_values: ReformerCache | None = None,
        cache: ReformerCache | None = None,
        **kwargs: Any,
    ) -> Any:
        """As transformers'; a cache goes by either name, whatever the version calls it."""
        given = past_key_values if cache is None else cache
        if given is not None:
            kwargs[CACHE] = given
        return super().generate(*args, **kwargs)  # type: ignore[misc]

    def _prepare_generated_length(  # type: ignore[override]
        self, generation_config: GenerationConfig, has_default_max_length: bool, input_ids_length: int, **kwargs: Any
    ) -> GenerationConfig:
        """As transformers, for whom `max_position_embeddings` is a limit: here only with positions that have one."""
        by_default = has_default_max_length and generation_config.max_new_tokens is None
        wanted = (generation_config.max_length or 0) + input_ids_length
        made: GenerationConfig = super()._prepare_generated_length(  # type: ignore[misc]
            generation_config,
            has_default_max_length=has_default_max_length,
            input_ids_length=input_ids_length,
            **kwargs,
        )
        if by_default and self.config.settings.length_limit is None:
            made.max_length = wanted
        return made

    def _get_stopping_criteria(self, *args: Any, **kwargs: Any) -> StoppingCriteriaList:
        """Without a reminder of a limit that positions do not have."""
        criteria: StoppingCriteriaList = super()._get_stopping_criteria(*args, **kwargs)  # type: ignore[misc]
        for each in criteria:
            if isinstance(each, MaxLengthCriteria) and self.config.settings.length_limit is None:
                each.max_position_embeddings = None
        return criteria

    def _prepare_cache_for_generation(  # type: ignore[override]
        self,
        generation_config: GenerationConfig,
        model_kwargs: dict[str, Any],
        generation_mode: GenerationMode,
        batch_size: int,
        max_cache_length: int,
    ) -> None:
        if generation_config.cache_implementation not in (None, "dynamic"):
            raise InputError(
                f"cache_implementation={generation_config.cache_implementation!r}: this model has a cache of its own; "
                "leave it out"
            )
        if generation_config.assistant_early_exit is not None:
            raise InputError(
                "assistant_early_exit: earlier layers were not trained to predict; for drafts give assistant_model=, a "
                "smaller model, or prompt_lookup_num_tokens="
            )
        if self.config.is_encoder_decoder and generation_config.prefill_chunk_size is not None:
            raise InputError("prefill_chunk_size cuts a prompt, and an encoder reads its source whole; leave it out")
        assisted = generation_mode == GenerationMode.ASSISTED_GENERATION
        given = model_kwargs.get(CACHE)
        if given is not None:
            if not isinstance(given, ReformerCache):
                raise InputError(f"past_key_values is a {type(given).__name__}; this model needs a ReformerCache")
            if self.config.is_encoder_decoder and not generation_config.is_assistant:
                raise InputError("past_key_values: an encoder-decoder begins each target anew; leave it out")
            if not self.config.is_encoder_decoder:  # an assistant's is cropped by transformers
                _leave_one_to_compute(given, generation_config, model_kwargs)
            given.assisted = assisted
            given._is_user_defined = True  # type: ignore[attr-defined]  # transformers then leaves it to its owner
            return
        if generation_config.use_cache is False:
            return
        config = self.config.of_decoder() if self.config.is_encoder_decoder else self.config
        reason = why_not_cached(config.settings)
        if self.training:
            reason = "a model in training mode, which draws new hashes each time (call model.eval())"
        if reason:
            if assisted:
                raise InputError(
                    f"assisted and prompt-lookup decoding need a cache, which this model has not ({reason})"
                )
            logger.warning_once(f"every token is computed from the whole text again: no cache is exact with {reason}")
            generation_config.use_cache = model_kwargs["use_cache"] = False
            return
        drafts = max(
            DRAFTS, generation_config.prompt_lookup_num_tokens or 0, generation_config.num_assistant_tokens or 0
        )
        crop_limit = drafts + 1 if assisted or generation_config.is_assistant else CROP_LIMIT
        one_beam = generation_config.num_beams in (None, 1)  # beams are copied with all the room there is
        room = max_cache_length if one_beam else 0
        cache = ReformerCache(config, room=room, crop_limit=crop_limit)
        cache.copies = max(generation_config.num_beams or 1, generation_config.num_return_sequences or 1)
        model_kwargs[CACHE] = cache

    def save_cache(
        self, cache: ReformerCache, path: str | os.PathLike[str], input_ids: Int[Tensor, "b l"] | None = None
    ) -> None:
        """Write what this model has read, and its tokens if they are given; see `reformer.models.save_cache`."""
        save_cache(cache, path, self, input_ids)  # type: ignore[arg-type]

    def load_cache(
        self, path: str | os.PathLike[str], *, room: int = 0
    ) -> tuple[ReformerCache, Int[Tensor, "b l"] | None]:
        """What `save_cache` wrote for this model, and the tokens; see `reformer.models.load_cache`."""
        return load_cache(path, self, room=room)  # type: ignore[arg-type]

    def _refuse_paged(self, *args: Any, **kwargs: Any) -> Any:
        """Pages hold keys and values of all tokens, which this model does not keep."""
        raise InputError(
            "continuous batching (generate_batch, cache_implementation='paged') is not supported: this model has a "
            "cache of its own; use generate with a padded batch"
        )

    generate_batch = init_continuous_batching = continuous_batching_context_manager = _refuse_paged

    def prepare_inputs_for_generation(  # type: ignore[override]
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        past_key_values: ReformerCache | None = None,
        inputs_embeds: Tensor | None = None,
        cache: ReformerCache | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Only new tokens with a cache, by either name; the whole text without."""
        past_key_values = past_key_values if cache is None else cache
        if not input_ids.shape[1] and inputs_embeds is None:
            raise InputError("the prompt is empty; give at least one token")
        if past_key_values is None:
            next_sequence_length = None
        elif past_key_values.assisted and next_sequence_length is None and past_key_values.seen:
            next_sequence_length = input_ids.shape[1] - past_key_values.seen  # transformers expects an empty cache here
        for name in ("tokenizer", "assistant_tokenizer"):  # of stop strings; transformers hands them on to the forward
            kwargs.pop(name, None)
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(  # type: ignore[misc]
            input_ids,  # type: ignore[arg-type]
            next_sequence_length,
            inputs_embeds=inputs_embeds,
            **{CACHE: past_key_values, **kwargs},
        )
        if CACHE in inputs:
            inputs["past_key_values"] = inputs.pop(CACHE)
        return inputs


def _leave_one_to_compute(cache: ReformerCache, config: GenerationConfig, model_kwargs: dict[str, Any]) -> None:
    """A cache that covers the whole prompt gives no logits to go on from: its last token is computed again."""
    mask = model_kwargs.get("attention_mask")
    prompt = getattr(config, "_mask_length", 0) if mask is None else mask.shape[1]
    if cache.seen > prompt:
        raise InputError(
            f"past_key_values holds {cache.seen} tokens and the text has {prompt}; pass the text from its start, or an "
            "attention_mask over all of it"
        )
    if cache.seen == prompt:
        cache.crop(-1)
