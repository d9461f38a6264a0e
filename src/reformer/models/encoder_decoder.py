"""`ReformerForConditionalGeneration`: a reversible encoder and a reversible decoder that attends to it."""

import copy
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int, Shaped
from torch import Tensor
from transformers.modeling_outputs import Seq2SeqLMOutput
from transformers.utils.generic import ModelOutput

from reformer.errors import InputError
from reformer.models.cache import ReformerCache
from reformer.models.cache_name import CACHE
from reformer.models.config import ReformerConfig
from reformer.models.generation import ReformerGenerationMixin
from reformer.models.language_head import Counts, LanguageHead
from reformer.models.model import ReformerModel
from reformer.models.sequence_parallel import SequenceParallel
from reformer.ops.hashing import derive_seed
from reformer.ops.questions import Questions
from reformer.settings.data import IGNORED


@dataclass
class ReformerConditionalGenerationOutput(Counts, Seq2SeqLMOutput):
    """The usual output, and how many tokens were predicted, how many of them rightly; the cache is the decoder's."""

    if CACHE == "cache":
        cache: ReformerCache | None = None
    else:
        past_key_values: ReformerCache | None = None  # type: ignore[assignment]


class ReformerForConditionalGeneration(LanguageHead, ReformerGenerationMixin):
    """Source tokens to target tokens (Vaswani et al. 2017, section 3, on reversible layers).

    The encoder sees both ways, the decoder what came before; `causal` has no say. One table embeds both sides, and
    predicts too with `tie_word_embeddings`. The encoder runs once a step and gathers its gradient once, however many
    layers attend to it. With `loss_chunk`, an output that has a loss has no logits.

    Raises InputError for a configuration without a token for the decoder to start with.
    """

    accepts_loss_kwargs = True  # the Trainer then passes num_items_in_batch
    _tied_weights_keys = {"lm_head.weight": "encoder.embeddings.token.weight"}

    def __init__(self, config: ReformerConfig) -> None:
        if config.architectures and not config.is_encoder_decoder:
            raise InputError(
                f"the configuration is that of a {config.architectures[0]}, which is no encoder-decoder; use that class"
            )
        config = copy.deepcopy(config)
        config.is_encoder_decoder = True
        if config.decoder_start_token_id is None:
            config.decoder_start_token_id = config.eos_token_id
        if config.decoder_start_token_id is None:
            raise InputError("a decoder needs a token to start with; give decoder_start_token_id or eos_token_id")
        super().__init__(config)
        self.encoder = ReformerModel(config.of_encoder())
        self.decoder = ReformerModel(
            config.of_decoder(), embeddings=self.encoder.embeddings, source_size=config.settings.merged_width
        )
        self._make_head(config)
        self.post_init()

    def get_encoder(self, modality: str | None = None) -> ReformerModel:
        """Source tokens to hidden states."""
        return self.encoder

    def get_decoder(self, modality: str | None = None) -> ReformerModel:
        """Target tokens and the encoder's hidden states to hidden states."""
        return self.decoder

    def get_input_embeddings(self) -> Any:
        """Token embeddings of both sides."""
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, value: Any) -> None:
        """Replace the token embeddings of both sides."""
        self.encoder.set_input_embeddings(value)

    def _hand_on(self) -> None:
        """Give both sides, which have configurations of their own, what a forward reads of this one's."""
        for side in (self.encoder, self.decoder):
            side.config.hash_seed, side.config.use_cache = self.config.hash_seed, self.config.use_cache
            side.config.output_hidden_states = self.config.output_hidden_states

    def prepare_decoder_input_ids_from_labels(self, labels: Int[Tensor, "b l"]) -> Int[Tensor, "b l"]:
        """What the decoder reads to predict `labels`: the start token, then each label but the last."""
        inputs = labels.roll(1, dims=1)
        assert self.config.decoder_start_token_id is not None
        inputs[:, 0] = self.config.decoder_start_token_id
        return inputs.masked_fill(inputs == IGNORED, self.config.pad_token_id or 0)

    def forward(
        self,
        input_ids: Int[Tensor, "b s"] | None = None,
        attention_mask: Shaped[Tensor, "b s"] | None = None,
        decoder_input_ids: Int[Tensor, "b l"] | None = None,
        decoder_attention_mask: Shaped[Tensor, "b keys"] | None = None,
        labels: Int[Tensor, "b l"] | None = None,
        encoder_outputs: ModelOutput | tuple[Tensor, ...] | None = None,
        inputs_embeds: Float[Tensor, "b s hidden"] | None = None,
        decoder_inputs_embeds: Float[Tensor, "b l hidden"] | None = None,
        decoder_position_ids: Int[Tensor, "#b l"] | None = None,
        past_key_values: ReformerCache | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: int | Tensor | None = None,
        seed: int | None = None,
        sequence_parallel: SequenceParallel | None = None,
    ) -> ReformerConditionalGenerationOutput | tuple[Any, ...]:
        """Logits of the target's tokens, and with `labels` (one for each slot, -100 ignored) the loss in nats a token.

        Without `decoder_input_ids` the decoder reads the labels, shifted. `encoder_outputs` stand for the source, which
        is not run again; `attention_mask` is its. `past_key_values` are of the decoder.
        With `sequence_parallel`, as in `ReformerForCausalLM`, this process holds parts of the source and of the target.
        Raises InputError as `ReformerModel` does, and for a target that is missing.
        """
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            if labels is None or sequence_parallel is not None:
                raise InputError("the target is missing; give decoder_input_ids, or whole labels to learn from")
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        self._hand_on()
        output_attentions = self.config.output_attentions if output_attentions is None else output_attentions
        questions = Questions()
        source, source_mask, source_parts = None, attention_mask, None
        if encoder_outputs is None:
            source = self.encoder.prepare(
                input_ids,
                attention_mask,
                inputs_embeds=inputs_embeds,
                questions=questions,
                sequence_parallel=sequence_parallel,
                seed=seed,
            )
            source_mask, source_parts = source.mask, source.parts
        elif sequence_parallel is not None:
            raise InputError("sequence_parallel together with encoder_outputs is not supported; give the source")
        target = self.decoder.prepare(
            decoder_input_ids,
            decoder_attention_mask,
            decoder_position_ids,
            None,
            decoder_inputs_embeds,
            past_key_values,
            use_cache,
            source_mask,
            questions,
            labels=labels,
            sequence_parallel=sequence_parallel,
            source_parts=source_parts,
            seed=None if seed is None else derive_seed(seed, 1),
            apart=("labels",),
        )
        self._ask_labels(labels, target.size, questions)
        if encoder_outputs is None:
            encoder_outputs = self.encoder(
                input_ids=input_ids,
                inputs_embeds=inputs_embeds,
                output_hidden_states=output_hidden_states,
                output_attentions=output_attentions,
                return_dict=True,
                seed=seed,
                prepared=source,
            )
        states = encoder_outputs[0]
        output = self.decoder(
            input_ids=decoder_input_ids,
            position_ids=decoder_position_ids,
            inputs_embeds=decoder_inputs_embeds,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
            seed=None if seed is None else derive_seed(seed, 1),
            encoder_hidden_states=states,
            prepared=target,
        )
        hidden = output.last_hidden_state
        result = ReformerConditionalGenerationOutput(
            **{CACHE: getattr(output, CACHE)},
            decoder_hidden_states=output.hidden_states,
            encoder_last_hidden_state=states,
            encoder_hidden_states=getattr(encoder_outputs, "hidden_states", None),
            **self._predict(hidden, labels, num_items_in_batch, logits_to_keep, target.parts),
        )
        return self._shaped(result, return_dict)
