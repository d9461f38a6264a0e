"""What is known of the tokens of a batch, whatever is computed over them: padding, documents, ranks.

Parts are worked out at first use and live as long as the value does, for all layers of a forward and for both runs of a
reversible block.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from reformer.errors import InputError
from reformer.ops.neighbourhoods import octave_counts
from reformer.ops.questions import Answer, Questions
from reformer.ops.ranks import Ranks, check_masks, rank_all, rank_tokens, say_where_ids_fall, slots_at
from reformer.ops.spec import Chunks, Octaves

Part = TypeVar("Part")


@dataclass(frozen=True, eq=False)
class Sequences:
    """The tokens of a batch of rows; without masks all rows are alike."""

    batch: int
    length: int
    device: torch.device
    key_padding_mask: Bool[Tensor, "b l"] | None = None
    """True for a real token; None: all are."""
    segment_ids: Int[Tensor, "b l"] | None = None
    """Runs of equal ids are documents; None: a row is one."""
    memo: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        x: Shaped[Tensor, "b ... l d"],
        key_padding_mask: Shaped[Tensor, "b l"] | None = None,
        segment_ids: Int[Tensor, "b l"] | None = None,
        questions: Questions | None = None,
    ) -> "Sequences":
        """The sequences of vectors, with masks nobody has checked yet; what waits for the device goes to `questions`.

        Raises InputError for masks of another shape or meaning and for segment ids that decrease among real tokens.
        """
        b, length = x.shape[0], x.shape[-2]
        check_masks(b, length, key_padding_mask, segment_ids)
        asked = Questions() if questions is None else questions
        if key_padding_mask is not None:
            key_padding_mask = as_mask("key_padding_mask", key_padding_mask, asked).to(x.device)
        if segment_ids is not None:
            segment_ids = segment_ids.to(x.device)
        made = cls(b, length, x.device, key_padding_mask, segment_ids)
        if segment_ids is not None:
            made._check_order(segment_ids, asked)
        if questions is None:
            asked.fetch()
        return made

    def _check_order(self, segment_ids: Tensor, questions: Questions) -> None:
        falls = self._ranked[1]

        def check(wrong: Any) -> None:
            if wrong[0]:
                say_where_ids_fall(self.ranks.real, segment_ids, falls)

        questions.ask(falls.any(), check)

    def remember(self, key: Hashable, make: Callable[[], Part]) -> Part:
        """What `make` gives, worked out once; a graph that is traced finds what is alike by itself."""
        if torch.compiler.is_compiling():
            return make()
        if key not in self.memo:
            self.memo[key] = make()
        part: Part = self.memo[key]
        return part

    def to(self, device: torch.device) -> "Sequences":
        """The same sequences on a device, with the answers that are known."""
        moved: dict[str, Any] = {name: x.to(device) for name, x in vars(self).items() if isinstance(x, Tensor)}
        known = {key: value for key, value in self.memo.items() if isinstance(value, Answer)}
        return replace(self, device=device, memo=known, **moved)

    @property
    def masked(self) -> bool:
        """Whether anything tells rows, or tokens of a row, apart."""
        return self.key_padding_mask is not None or self.segment_ids is not None

    @property
    def _ranked(self) -> tuple[Ranks, Any]:
        """Ranks, and where segment ids fall."""
        if not self.masked:
            return self.remember("ranks", lambda: (rank_all(self.length, self.device), None))
        masks = self.key_padding_mask, self.segment_ids
        return self.remember("ranks", lambda: rank_tokens(self.batch, self.length, *masks, self.device))

    @property
    def ranks(self) -> Ranks:
        """Ranks and documents; of one row where all are alike."""
        return self._ranked[0]

    @property
    def document(self) -> Int[Tensor, "b l"]:
        """The number of each token's document, -1 for padding, as int32; of one row where all are alike."""
        return self.remember("document", lambda: self.ranks.document.int().contiguous())

    def slots_at(self, offset: int) -> Int[Tensor, "b l"]:
        """The slot of the token so many ranks behind each in its document, -1 for none."""
        return self.remember(("slots", offset), lambda: slots_at(self.ranks, offset))

    def without_padding(self, x: Float[Tensor, "b ... l d"]) -> Float[Tensor, "b ... l d"]:
        """Zeros in place of padding, whatever stands there: 0 * NaN is NaN."""
        if self.key_padding_mask is None:
            return x
        padding = ~self.ranks.real
        return x.masked_fill(padding.view(len(padding), *[1] * (x.dim() - 3), -1, 1), 0.0)

    def lengthened(self, missing: int) -> "Sequences":
        """These sequences with so many slots of padding behind the last."""
        if not missing:
            return self

        def make() -> Sequences:
            real = self.ranks.real.expand(self.batch, -1)
            ids = self.segment_ids
            ids = None if ids is None else F.pad(ids, (0, missing))
            known: dict[Hashable, Any] = {key: self.memo[key] for key in ("documents",) if key in self.memo}
            return Sequences(self.batch, self.length + missing, self.device, F.pad(real, (0, missing)), ids, known)

        return self.remember(("longer", missing), make)

    def ask_ahead(self, rule: Octaves | Chunks, causal: bool, questions: Questions) -> None:
        """Ask, together with other questions, for what kernels on a GPU have to know of documents under a rule."""
        if isinstance(rule, Octaves):
            self.memo["counts", rule, causal] = questions.ask(octave_counts(self.ranks, rule, causal))
        elif self.segment_ids is not None:
            self.memo["documents"] = questions.ask(self.ranks.document.max() + 1)

    def counts(self, rule: Octaves, causal: bool) -> tuple[int, int, int] | None:
        """Octaves, rows of the batch row that has most, and more than any group; None where nothing can be asked."""
        if ("counts", rule, causal) not in self.memo:
            self.ask_ahead(rule, causal, Questions())
        numbers = self.memo["counts", rule, causal].numbers
        return None if numbers is None else (numbers[0], numbers[1], numbers[2])

    def documents(self, rule: Chunks) -> int:
        """More than any document's number; as many as tokens where nothing can be asked."""
        if self.segment_ids is None:
            return 1
        if "documents" not in self.memo:
            self.ask_ahead(rule, True, Questions())
        numbers = self.memo["documents"].numbers
        return self.length if numbers is None else max(numbers[0], 1)


def as_mask(name: str, mask: Shaped[Tensor, "b l"], questions: Questions) -> Bool[Tensor, "b l"]:
    """True for a real token. What is to be added to logits says the opposite, 0 for a real token, and is refused."""

    def check(others: Any) -> None:
        if others[0]:
            raise InputError(
                f"{name} holds {others[0]} numbers other than 0 and 1: masks that are added to logits are not taken; "
                "give True or 1 for a real token"
            )

    if mask.is_floating_point():
        questions.ask(((mask != 0) & (mask != 1)).sum()[None], check)
    return mask.bool()
