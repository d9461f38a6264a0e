"""A live Reformer of transformers, made faster and mended in place: its modules stay, their forwards become ours."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.reformer import modeling_reformer as theirs

from reformer.errors import InputError
from reformer.interop.swap import Model, swap_classes
from reformer.interop.transformers.settings import length_multiple
from reformer.layers.reversible import ReversibleSequence
from reformer.ops.attention import local_attention, lsh_attention


def accelerate(model: Model) -> Model:
    """Swap the attention cores and the reversible encoder of every Reformer of transformers in `model` for ours.

    In place; returns the model. Its weights, their names, its configuration and files stay what they are. Outputs of
    real tokens and gradients are the same (padding attends to nothing here), and what transformers gets wrong in
    training is mended: dropout and autocast are the same in the backward as in the forward, `num_hashes` counts in the
    backward too, torch's generator is not reset by `hash_seed`, any length trains, and no cache is kept. Decoding with
    a cache goes on as in transformers.
    Raises InputError for a model without any such part.
    """
    return swap_classes(model, FASTER, "Reformer of transformers")


class _LSHSelfAttention(theirs.LSHSelfAttention):
    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        num_hashes: int | None = None,
        buckets: Tensor | None = None,
        past_buckets_states: theirs.ReformerDynamicCache | None = None,
        use_cache: bool = False,
        output_attentions: bool = False,
        **kwargs: Any,
    ) -> theirs.LSHSelfAttentionOutput:
        length, rounds = hidden_states.shape[1], num_hashes or self.num_hashes
        if (
            output_attentions
            or _follows(past_buckets_states, self.layer_idx)
            or _goes_round(self, rounds * length // self.chunk_length)
        ):
            return super().forward(
                hidden_states, attention_mask, num_hashes, buckets, past_buckets_states, use_cache, output_attentions
            )
        q, v = (
            self._split_hidden_size_dim(project(hidden_states), self.num_attention_heads, self.attention_head_size)
            for project in (self.query_key, self.value)
        )
        kept = None
        if hashed := length > self.chunk_length:
            if self.num_buckets is None:
                self._set_num_buckets(length)
            if past_buckets_states is not None:  # what later steps of theirs look up
                kept = self._hash_vectors(q, rounds, attention_mask)
                kept = kept.view(*q.shape[:2], rounds, length)
        out = lsh_attention(
            q,
            v,
            num_hashes=rounds if hashed else 1,
            num_buckets=self.num_buckets if hashed else 2,
            rule="chunk",
            chunk_length=self.chunk_length,
            chunks_before=self.num_chunks_before if hashed else 0,
            chunks_after=self.num_chunks_after if hashed else 0,
            causal=self.is_decoder,
            key_padding_mask=_padding(attention_mask),
            dropout_p=self.dropout if self.training else 0.0,
            successor_values=False,
            rotations=self._rotations(q, rounds) if hashed and self.hash_seed is not None else None,
        )
        merged = self._merge_hidden_size_dims(out, self.num_attention_heads, self.attention_head_size)
        return theirs.LSHSelfAttentionOutput(hidden_states=merged, attention_probs=(), buckets=kept)

    def _hash_vectors(self, vectors: Tensor, *arguments: Any, **options: Any) -> Tensor:
        if self.hash_seed is None:
            return super()._hash_vectors(vectors, *arguments, **options)
        with torch.random.fork_rng([vectors.device] if vectors.is_cuda else []):  # theirs resets the generator
            return super()._hash_vectors(vectors, *arguments, **options)

    def _rotations(self, q: Tensor, rounds: int) -> Tensor:
        """What `_hash_vectors` draws, without resetting torch's own generator."""
        columns = (self.num_buckets if isinstance(self.num_buckets, int) else sum(self.num_buckets)) // 2
        generator = torch.Generator(q.device).manual_seed(self.hash_seed)
        shape = (self.num_attention_heads, q.shape[-1], rounds, columns)
        return torch.randn(shape, generator=generator, device=q.device, dtype=q.dtype).transpose(1, 2)


class _LocalSelfAttention(theirs.LocalSelfAttention):
    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        past_buckets_states: theirs.ReformerDynamicCache | None = None,
        use_cache: bool = False,
        output_attentions: bool = False,
        **kwargs: Any,
    ) -> theirs.LocalSelfAttentionOutput:
        if (
            output_attentions
            or _follows(past_buckets_states, self.layer_idx)
            or _goes_round(self, hidden_states.shape[1] // self.chunk_length)
        ):
            return super().forward(hidden_states, attention_mask, past_buckets_states, use_cache, output_attentions)
        q, k, v = (
            self._split_hidden_size_dim(project(hidden_states), self.num_attention_heads, self.attention_head_size)
            for project in (self.query, self.key, self.value)
        )
        chunked = hidden_states.shape[1] > self.chunk_length
        out = local_attention(
            q,
            k,
            v,
            rule="chunk",
            chunk_length=self.chunk_length,
            chunks_before=self.num_chunks_before if chunked else 0,
            chunks_after=self.num_chunks_after if chunked else 0,
            causal=self.is_decoder,
            key_padding_mask=_padding(attention_mask),
            dropout_p=self.dropout if self.training else 0.0,
        )
        merged = self._merge_hidden_size_dims(out, self.num_attention_heads, self.attention_head_size)
        return theirs.LocalSelfAttentionOutput(hidden_states=merged, attention_probs=())


class _Attention(nn.Module):
    """f of a block."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.attention = layer.attention

    def forward(self, x: Tensor, attention_mask: Tensor | None, num_hashes: int | None) -> Tensor:
        x = x.to(self.attention.layer_norm.weight.dtype)
        out: Tensor = self.attention(x, attention_mask=attention_mask, num_hashes=num_hashes).hidden_states
        return out


class _FeedForward(nn.Module):
    """g of a block."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.feed_forward = layer.feed_forward

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.feed_forward(x.to(self.feed_forward.layer_norm.weight.dtype))
        return out


class _Encoder(theirs.ReformerEncoder):
    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        num_hashes: int | None = None,
        past_buckets_states: theirs.ReformerDynamicCache | None = None,
        use_cache: bool = False,
        orig_sequence_length: int | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> theirs.ReformerEncoderOutput:
        if output_attentions and self.training:
            raise InputError("output_attentions=True in training: probabilities are not kept there; call model.eval()")
        hooked = any(layer._forward_hooks or layer._forward_pre_hooks for layer in self.layers)
        if output_attentions or past_buckets_states is not None or (use_cache and not self.training) or hooked:
            return super().forward(
                hidden_states,
                attention_mask,
                num_hashes,
                past_buckets_states,
                use_cache,
                orig_sequence_length,
                output_hidden_states,
                output_attentions,
            )
        states = [hidden_states] if output_hidden_states else []
        x1, x2 = ReversibleSequence((_Attention(layer), _FeedForward(layer)) for layer in self.layers)(
            hidden_states,
            hidden_states,
            {"attention_mask": attention_mask, "num_hashes": num_hashes},
            on_block=(lambda _, y2: states.append(y2)) if output_hidden_states else None,
        )
        merged = self.layer_norm(torch.cat((x1, x2), dim=-1).to(self.layer_norm.weight.dtype))
        merged = F.dropout(merged, p=self.dropout, training=self.training)
        return theirs.ReformerEncoderOutput(
            hidden_states=merged, all_hidden_states=states, all_attentions=[], past_buckets_states=None
        )


class _AxialPositionEmbeddings(theirs.AxialPositionEmbeddings):
    """Any length up to the shape's product, in training too; dropout takes a column of the grid, as theirs does."""

    def forward(self, position_ids: Tensor) -> Tensor:
        rows, columns = self.axial_pos_shape
        first, last = (int(position) for position in position_ids.aminmax())
        if first < 0 or last >= rows * columns:
            raise InputError(
                f"position_ids hold {first if first < 0 else last}; the product of axial_pos_shape="
                f"{self.axial_pos_shape} is {rows * columns}, so 0 to {rows * columns - 1} are valid: use shorter texts"
            )
        row, column = position_ids // columns, position_ids % columns
        embedded = torch.cat((self.weights[0][row, 0], self.weights[1][0, column]), dim=-1)
        if not self.training or not self.dropout:
            return embedded
        kept = F.dropout(embedded.new_ones(position_ids.shape[0], columns), p=self.dropout)
        return embedded * kept.gather(1, column).unsqueeze(-1)


class _ReformerModel(theirs.ReformerModel):
    """Pads in training too, and positions as well."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        inputs = inputs_embeds if input_ids is None else input_ids
        length = 0 if inputs is None else inputs.shape[1]
        multiple, shortest = length_multiple(self.config), theirs._get_min_chunk_len(self.config)
        if not self.training or length <= shortest or not length % multiple:
            return super().forward(input_ids, attention_mask, position_ids, inputs_embeds, **kwargs)
        input_ids, inputs_embeds, attention_mask, position_ids, _ = self._pad_to_mult_of_chunk_length(
            input_ids, inputs_embeds, attention_mask, position_ids, padding_length=-length % multiple
        )
        output = super().forward(input_ids, attention_mask, position_ids, inputs_embeds, **kwargs)
        if not isinstance(output, tuple):
            output.last_hidden_state = output.last_hidden_state[:, :length]
            return output
        return output[0][:, :length], *output[1:]

    def _pad_to_mult_of_chunk_length(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        input_shape: Any = None,
        padding_length: int = 0,
        padded_seq_length: int | None = None,
        device: torch.device | None = None,
    ) -> tuple[Any, ...]:
        inputs = input_ids if input_ids is not None else inputs_embeds
        assert inputs is not None
        if attention_mask is None:
            attention_mask = torch.ones(inputs.shape[:2], dtype=torch.bool, device=inputs.device)
        if position_ids is not None:
            position_ids = F.pad(position_ids, (0, padding_length))
        if input_ids is not None:
            input_ids = F.pad(input_ids, (0, padding_length), value=self.config.pad_token_id or 0)
        if inputs_embeds is not None:
            inputs_embeds = F.pad(inputs_embeds, (0, 0, 0, padding_length))
        shape = torch.Size((inputs.shape[0], inputs.shape[1] + padding_length))
        return input_ids, inputs_embeds, F.pad(attention_mask, (0, padding_length)), position_ids, shape


_ReformerModel.__name__ = "ReformerModel"  # `save_pretrained` writes it as the architecture

FASTER: dict[type[nn.Module], type[nn.Module]] = {
    theirs.LSHSelfAttention: _LSHSelfAttention,
    theirs.LocalSelfAttention: _LocalSelfAttention,
    theirs.ReformerEncoder: _Encoder,
    theirs.AxialPositionEmbeddings: _AxialPositionEmbeddings,
    theirs.ReformerModel: _ReformerModel,
}


def _follows(cache: theirs.ReformerDynamicCache | None, layer: int) -> bool:
    """Whether a cache holds tokens in front of these."""
    return cache is not None and len(cache) > layer


def _goes_round(layer: Any, chunks: int) -> bool:
    """Whether a chunk sees more neighbours than there are: theirs then shows some of them otherwise than on a ring."""
    return max(layer.num_chunks_before, layer.num_chunks_after) > max(chunks, 1)


def _padding(attention_mask: Tensor | None) -> Tensor | None:
    return None if attention_mask is None or bool(attention_mask.all()) else attention_mask.bool()
