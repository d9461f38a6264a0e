"""What one forward was given, before anything is computed: shapes are checked, and what only the device knows is asked.

Each question alone would wait for a GPU. So a model, the head above it and the encoder beside it put theirs first, and
the first forward fetches all answers at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from reformer.errors import InputError
from reformer.models.cache import ReformerCache
from reformer.models.sequence_parallel import agree
from reformer.ops.environment import interpreted
from reformer.ops.exchange import Parts
from reformer.ops.questions import Answer, Questions
from reformer.ops.sequences import Sequences, as_mask
from reformer.settings import ModelSettings

Mask = Shaped[Tensor, "b l"]


@dataclass(frozen=True, eq=False)
class Padding:
    """A mask, and whether there is any padding."""

    mask: Bool[Tensor, "b l"]
    some: Answer

    @classmethod
    def of(cls, mask: Mask, questions: Questions) -> "Padding":
        """The padding that a mask says, True or 1 for a real token."""
        mask = as_mask("attention_mask", two_dimensional(mask), questions)
        return cls(mask, questions.ask(~mask.all()))

    def if_any(self) -> Bool[Tensor, "b l"] | None:
        """No mask where nothing is padded: the ways without are faster. A graph cannot ask, and keeps it."""
        numbers = self.some.numbers
        return self.mask if numbers is None or numbers[0] else None


@dataclass(frozen=True, eq=False)
class Prepared:
    """The tokens or their embeddings, and what is known of them."""

    inputs: Int[Tensor, "b l"] | Float[Tensor, "b l hidden"]
    cache: ReformerCache | None
    mask: Bool[Tensor, "b all"] | None
    """With a cache that of its tokens too."""
    padding: Padding | None
    segment_ids: Int[Tensor, "b l"] | None
    """Those given, or the documents that positions begin."""
    drafted: Sequences | None
    """Without a cache: the sequences, in case something is padded."""
    source_padding: Padding | None
    """The padding of what a decoder attends to."""
    questions: Questions
    positions: Int[Tensor, "#b l"] | None = None
    """The `position_ids` that were given."""
    labels: Int[Tensor, "b l"] | None = None
    """The labels that were given."""
    seed: int | None = None
    """That of the hashes, if it is known."""
    dropout_seeds: Sequence[int] = ()
    """Those of layers, where processes agree on them."""
    parts: Parts | None = None
    """Where several processes hold the sequences: their parts. `inputs` is this one's, and all else is whole."""

    source_parts: Parts | None = None
    """Those of what a decoder attends to."""

    def fetch(self) -> None:
        """Wait for the answers; what is wrong in one of several processes is raised in all of them."""
        if self.parts is None:
            self.questions.fetch()
            return
        problem = None
        try:
            self.questions.fetch()
        except InputError as error:
            problem = error
        agree(self.parts.ask(problem is not None, self.inputs.device), problem)

    def own(self, x: Shaped[Tensor, "b l"]) -> Shaped[Tensor, "b own"]:
        """Of what is said of all tokens, that of the tokens that this process holds."""
        return x if self.parts is None else x[:, self.parts.own]

    @property
    def size(self) -> tuple[int, int]:
        """Rows and tokens of each."""
        return self.inputs.shape[0], self.inputs.shape[1]

    def sequences(self) -> Sequences:
        """The sequences of a forward without a cache."""
        assert self.drafted is not None
        if self.padding is None or self.padding.if_any() is not None:
            return self.drafted
        size = self.drafted.batch, self.drafted.length, self.drafted.device
        if self.drafted.segment_ids is None:
            return Sequences(*size)
        return Sequences(*size, None, self.drafted.segment_ids, self.drafted.memo)


def draft_sequences(
    slots: Shaped[Tensor, "b l 1"],
    mask: Bool[Tensor, "b l"] | None,
    segment_ids: Int[Tensor, "b l"] | None,
    settings: ModelSettings,
    questions: Questions,
) -> Sequences:
    """Sequences of a forward without a cache, with what kernels on a GPU have to know asked ahead."""
    sequences = Sequences.of(slots, mask, segment_ids, questions)
    waits = sequences.device.type != "cpu" or interpreted()
    if waits and sequences.masked and slots.numel() and not torch.compiler.is_compiling():
        spec = settings.lsh.fitted(sequences.length)
        sequences.ask_ahead(spec.rule, spec.causal, questions)
    return sequences


def one_of(input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
    """Whichever is given; InputError for both, none, and another shape or type."""
    if (input_ids is None) == (inputs_embeds is None):
        raise InputError("give either input_ids or inputs_embeds, and not both")
    inputs, name, shape = (input_ids, "input_ids", "[b, l]")
    if inputs_embeds is not None:
        inputs, name, shape = (inputs_embeds, "inputs_embeds", "[b, l, hidden]")
    assert inputs is not None
    if inputs_embeds is None and (inputs.is_floating_point() or inputs.dtype == torch.bool):
        raise InputError(f"input_ids are {inputs.dtype}; they must be integers")
    if inputs.dim() != shape.count(",") + 1:
        raise InputError(f"{name} have shape {list(inputs.shape)}; they must be {shape}")
    return inputs


def documents_of(
    position_ids: Int[Tensor, "#b l"] | None,
    mask: Tensor | None,
    segment_ids: Tensor | None,
    cache: ReformerCache | None,
) -> Int[Tensor, "b l"] | None:
    """The documents of each row: where nothing else says so, one begins where positions do not go on by 1."""
    if segment_ids is not None or position_ids is None or mask is not None or cache is not None:
        return segment_ids
    starts = position_ids.diff(dim=1) != 1
    known = starts.device.type == "cpu" and not torch.compiler.is_compiling()
    if known and not starts.any():  # elsewhere the answer would be waited for
        return None
    return F.pad(starts.cumsum(1), (1, 0))


def two_dimensional(mask: Tensor) -> Tensor:
    """The mask; InputError for one of another shape."""
    if mask.dim() != 2:
        raise InputError(f"attention_mask has shape {list(mask.shape)}; it must be [b, l], 1 for a real token")
    return mask
