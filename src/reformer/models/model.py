"""`ReformerModel`: embeddings, the reversible stack, the merged streams behind a norm."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPast

from reformer.errors import InputError
from reformer.layers.batch import Batch
from reformer.layers.caches.step import Step
from reformer.layers.norm import make_norm
from reformer.models.cache import OF_NO_CACHE, ReformerCache, differing, why_not_cached
from reformer.models.cache_name import CACHE
from reformer.models.config import ReformerConfig
from reformer.models.embeddings import Embeddings
from reformer.models.join_forward import join_forward
from reformer.models.pooling import pool
from reformer.models.prepared import Padding, Prepared, documents_of, draft_sequences, one_of, two_dimensional
from reformer.models.pretrained import ReformerPreTrainedModel, check_one_stack
from reformer.models.sequence_parallel import SequenceParallel
from reformer.models.stack import make_stack
from reformer.ops.exchange import Parts
from reformer.ops.hashing import draw_seed, layer_seeds
from reformer.ops.questions import Questions
from reformer.ops.sequences import Sequences, as_mask


@dataclass
class ReformerModelOutput(BaseModelOutputWithPast):
    """The usual output, and with causal=False what stands for each whole text (`pooling`)."""

    pooler_output: Float[Tensor, "b width"] | None = None


class ReformerModel(ReformerPreTrainedModel):
    """Token ids [b, l] to hidden states [b, l, hidden], or [b, l, 2 * hidden] with `stream_merge="concat"`.

    The decoder of an encoder-decoder attends to hidden states of width `source_size` too, and has the encoder's
    `embeddings`.
    """

    def __init__(
        self, config: ReformerConfig, *, embeddings: Embeddings | None = None, source_size: int | None = None
    ) -> None:
        check_one_stack(config, type(self))
        super().__init__(config)
        settings = config.settings  # checks a configuration that was changed since it was made
        self.built_from, self.is_decoder = settings, source_size is not None
        self.writers_per_layer = 3 if self.is_decoder else 2
        if embeddings is None:
            self.embeddings = Embeddings(config)
        else:
            self.__dict__["embeddings"] = embeddings  # the encoder's: one module, registered once
        self.layers = make_stack(settings, source_size)
        self.norm = make_norm(settings.norm, settings.merged_width, settings.layer_norm_eps)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Token embeddings."""
        return self.embeddings.token

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embeddings."""
        self.embeddings.token = value  # type: ignore[assignment]

    def forward(
        self,
        input_ids: Int[Tensor, "b l"] | None = None,
        attention_mask: Shaped[Tensor, "b keys"] | None = None,
        position_ids: Int[Tensor, "#b l"] | None = None,
        segment_ids: Int[Tensor, "b l"] | None = None,
        inputs_embeds: Float[Tensor, "b l hidden"] | None = None,
        past_key_values: ReformerCache | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        encoder_hidden_states: Float[Tensor, "b s width"] | None = None,
        encoder_attention_mask: Shaped[Tensor, "b s"] | None = None,
        seed: int | None = None,
        prepared: Prepared | None = None,
        sequence_parallel: SequenceParallel | None = None,
        token_type_ids: Tensor | None = None,  # of tokenizers of other models; not used
    ) -> ReformerModelOutput | tuple[Any, ...]:
        """Encode; any length, padded and packed at will.

        `position_ids` feed position embeddings and are the ranks unless given; without a mask, `segment_ids` and a
        cache, a document begins where they do not go on by 1. With `past_key_values`, or a cache
        of its own with `use_cache=True`, new tokens follow those of the cache, `attention_mask` [b, p + k] covers both,
        and nothing has a gradient. The rotations of all layers come from `seed`; unless given, in training from torch's
        generator, in evaluation from `hash_seed`. `prepared` is what `prepare` gave for the same arguments.
        With `sequence_parallel` all tensors are this process's parts, and outputs too (without `pooler_output`).
        Raises InputError for tokens or positions out of range, shapes that do not fit, and a cache in training.
        """
        if self.config.output_attentions if output_attentions is None else output_attentions:
            raise InputError(
                "output_attentions=True: LSH attention never forms the matrix of probabilities; leave it False"
            )
        if prepared is None:
            prepared = self.prepare(
                input_ids,
                attention_mask,
                position_ids,
                segment_ids,
                inputs_embeds,
                past_key_values,
                use_cache,
                encoder_attention_mask,
                sequence_parallel=sequence_parallel,
                seed=seed,
            )
        self._check_source(encoder_hidden_states, prepared)
        cache = prepared.cache
        keep = bool(self.config.output_hidden_states if output_hidden_states is None else output_hidden_states)
        prepared.fetch()
        if cache is None:
            sequences = prepared.sequences()
            rank = prepared.own(sequences.ranks.rank.expand(sequences.batch, -1))
            x = self._embed(input_ids, inputs_embeds, position_ids, rank)
            batch = self._batch(prepared, sequences, prepared.positions, encoder_hidden_states, seed)
            output = self._encode(x, batch, keep)
            if not self.config.causal and prepared.parts is None:
                assert output.last_hidden_state is not None
                output.pooler_output = pool(output.last_hidden_state, sequences.key_padding_mask, self.config.pooling)
        else:
            with torch.no_grad():
                step = _begin(cache, *prepared.size, prepared.mask, prepared.inputs.device)
                rank = step.rank if step.real is None else step.rank.masked_fill(~step.real, 0)
                if position_ids is None:
                    self.embeddings.ask_positions(rank, prepared.questions)
                    prepared.questions.fetch()
                x = self._embed(input_ids, inputs_embeds, position_ids, rank)
                positions = rank if position_ids is None else position_ids
                batch = self._batch(prepared, step, positions, encoder_hidden_states, seed)
                cache.within = True  # what fails from here on leaves half of the tokens in it
                output = self._encode(x, batch, keep)
                _end(cache, step)
            setattr(output, CACHE, cache)
        return self._shaped(output, return_dict)

    def prepare(
        self,
        input_ids: Int[Tensor, "b l"] | None = None,
        attention_mask: Shaped[Tensor, "b keys"] | None = None,
        position_ids: Int[Tensor, "#b l"] | None = None,
        segment_ids: Int[Tensor, "b l"] | None = None,
        inputs_embeds: Float[Tensor, "b l hidden"] | None = None,
        past_key_values: ReformerCache | None = None,
        use_cache: bool | None = None,
        encoder_attention_mask: Shaped[Tensor, "b s"] | None = None,
        questions: Questions | None = None,
        labels: Int[Tensor, "b l"] | None = None,
        sequence_parallel: SequenceParallel | None = None,
        source_parts: Parts | None = None,
        seed: int | None = None,
        apart: tuple[str, ...] = (),
    ) -> Prepared:
        """Check what a forward is given, without waiting for a GPU: that is left to `questions`.

        With `sequence_parallel` the processes tell each other what they hold, but for what stays `apart`;
        `source_parts` are those of the source, whose mask is whole.

        Raises InputError for shapes that do not fit, and a cache in training.
        """
        questions, joined = Questions() if questions is None else questions, None
        if sequence_parallel is None:
            inputs, mask, cache = self._own(
                input_ids, inputs_embeds, attention_mask, position_ids, past_key_values, use_cache, questions
            )
        else:
            if past_key_values is not None or use_cache:
                raise InputError("sequence_parallel together with a cache is not supported; pass use_cache=False")
            given = {"segment_ids": segment_ids, "position_ids": position_ids, "labels": labels}
            about = attention_mask, position_ids, None, False, questions
            joined, inputs = join_forward(
                self, sequence_parallel, lambda: self._own(input_ids, inputs_embeds, *about), given, seed, apart
            )
            cache, (_, seed, _, mask, segment_ids, position_ids, labels) = None, joined
        b = inputs.shape[0]
        slots = inputs[..., None] if inputs.dim() == 2 else inputs[..., :1]
        if joined is not None:
            slots = inputs.new_empty(()).expand(b, sum(joined.parts.lengths), 1)
        segment_ids = documents_of(position_ids, mask, segment_ids, cache)
        padding, drafted, positions = None, None, position_ids
        if cache is None:
            if segment_ids is not None:
                segment_ids = segment_ids.expand(b, -1)
            drafted = draft_sequences(slots, mask, segment_ids, self.built_from, questions)
            padding = None if mask is None else Padding.of(mask, questions)
            positions = drafted.ranks.rank if positions is None else positions
        else:
            self._check_cache(cache, segment_ids)
        if input_ids is not None:
            self.embeddings.ask_tokens(input_ids, questions)
        if positions is not None:
            self.embeddings.ask_positions(positions, questions)
        source = None if encoder_attention_mask is None else Padding.of(encoder_attention_mask, questions)
        return Prepared(
            inputs,
            cache,
            mask,
            padding,
            segment_ids,
            drafted,
            source,
            questions,
            position_ids,
            labels,
            seed,
            () if joined is None else joined.dropout_seeds,
            None if joined is None else joined.parts,
            source_parts,
        )

    def _own(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        past_key_values: ReformerCache | None,
        use_cache: bool | None,
        questions: Questions,
    ) -> tuple[Tensor, Tensor | None, ReformerCache | None]:
        """Inputs, mask and cache of this process, whose shapes fit."""
        inputs = one_of(input_ids, inputs_embeds)
        b, length = inputs.shape[:2]
        mask = None if attention_mask is None else as_mask("attention_mask", two_dimensional(attention_mask), questions)
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training and why_not_cached(self.built_from) is None
        cache = past_key_values if past_key_values is not None else ReformerCache(self.config) if use_cache else None
        if inputs_embeds is not None:
            self.embeddings.check_width(inputs_embeds)
        if position_ids is not None and position_ids.shape not in ((b, length), (1, length)):
            raise InputError(
                f"position_ids have shape {list(position_ids.shape)}; they must be [b, l] = [{b}, {length}]"
            )
        return inputs, mask, cache

    def _batch(
        self,
        prepared: Prepared,
        sequences: Sequences,
        positions: Tensor | None,
        source: Tensor | None,
        seed: int | None,
    ) -> Batch:
        cache, padding = prepared.cache, prepared.source_padding
        return Batch(
            sequences,
            positions,
            self._seeds(seed if prepared.parts is None else prepared.seed),
            () if cache is None else cache.layers,
            source,
            None if padding is None else padding.if_any(),
            cross_caches=cache.cross_layers() if cache is not None and self.is_decoder else (),
            parts=prepared.parts,
            dropout_seeds=prepared.dropout_seeds,
            source_parts=prepared.source_parts,
        )

    def _embed(
        self, input_ids: Tensor | None, inputs_embeds: Tensor | None, position_ids: Tensor | None, rank: Tensor
    ) -> Tensor:
        """The first stream."""
        positions = rank if position_ids is None else position_ids.expand(len(rank), -1)
        x: Tensor = self.embeddings(input_ids, inputs_embeds, positions)
        return x

    def _encode(self, x: Tensor, batch: Batch, keep: bool) -> ReformerModelOutput:
        """From the first stream to hidden states; `keep` those of every layer."""
        states: list[Tensor] = [self._merge(x, x)] if keep else []
        x1, x2 = self.layers(
            x,
            x.clone() if torch.compiler.is_compiling() else x,  # one tensor twice makes a first block a case of its own
            [{"batch": batch, "layer": i} for i in range(self.layers.depth)],
            on_block=(lambda y1, y2: states.append(self._merge(y1, y2))) if keep else None,
        )
        hidden = self.norm(self._merge(x1, x2))
        return ReformerModelOutput(last_hidden_state=hidden, hidden_states=tuple(states) if keep else None)

    def _seeds(self, seed: int | None) -> list[int]:
        """One seed a layer: from the one given, else in training from torch's generator, else from `hash_seed`."""
        if seed is None:
            seed = draw_seed() if self.training else self.config.hash_seed
        return layer_seeds(seed, self.layers.depth)

    def _check_source(self, states: Tensor | None, prepared: Prepared) -> None:
        """What a decoder attends to fits its tokens, and nothing else has any."""
        if self.is_decoder != (states is not None):
            raise InputError(
                "encoder_hidden_states are missing; a decoder attends to them"
                if self.is_decoder
                else "encoder_hidden_states: this model has no cross-attention; it is no decoder of an encoder-decoder"
            )
        if states is None:
            return
        rows, padding = prepared.size[0], prepared.source_padding
        if states.shape[0] != rows:
            raise InputError(f"encoder_hidden_states have {states.shape[0]} rows and the decoder's tokens {rows}")
        length = states.shape[1] if prepared.source_parts is None else sum(prepared.source_parts.lengths)
        if padding is not None and padding.mask.shape != (rows, length):
            raise InputError(
                f"the source's attention_mask has shape {list(padding.mask.shape)}; it must be [b, s] = "
                f"{[rows, length]}"
            )

    def _merge(self, x1: Tensor, x2: Tensor) -> Tensor:
        if self.config.residual == "single":
            return x1
        if self.config.stream_merge == "concat":
            return torch.cat((x1, x2), dim=-1)
        return (x1 + x2) / 2

    def _check_cache(self, cache: object, segment_ids: Tensor | None) -> None:
        if not isinstance(cache, ReformerCache):
            raise InputError(f"past_key_values is a {type(cache).__name__}; this model needs a ReformerCache")
        seed = self.config.hash_seed
        if cache.accepted is None or cache.accepted[0] is not self.built_from or cache.accepted[1] != seed:
            wanted = replace(self.built_from, hash_seed=seed)
            if names := [name for name in differing(cache.settings, wanted) if name not in OF_NO_CACHE]:
                raise InputError(
                    f"past_key_values was made for a model of other settings ({', '.join(names)}); make it from this "
                    "model's config as it was when the model was made"
                )
            cache.accepted = self.built_from, seed
        if self.training:
            raise InputError(
                "a cache in training mode: each forward draws new hashes there, so cached ones mean nothing; "
                "call model.eval(), or pass use_cache=False"
            )
        if segment_ids is not None:
            raise InputError(
                "segment_ids together with a cache: a cache holds one document a row; leave one of them out"
            )


@torch.compiler.disable
def _begin(cache: ReformerCache, b: int, count: int, mask: Tensor | None, device: torch.device) -> Step:
    return cache.begin(b, count, mask, device)


@torch.compiler.disable
def _end(cache: ReformerCache, step: Step) -> None:
    cache.end(step)
