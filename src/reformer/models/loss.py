"""The loss of a language model, in pieces, so that logits are never whole."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from reformer.errors import InputError
from reformer.ops.exchange import Parts
from reformer.ops.questions import Questions, without_values
from reformer.settings.data import IGNORED


class TokenLoss(NamedTuple):
    """Sums over the predicted tokens."""

    nll: Float[Tensor, ""]
    """Negative log-likelihood, nats, with its graph."""
    correct: Int[Tensor, ""]
    """Tokens that had the largest logit."""
    predicted: Int[Tensor, ""]
    """Predicted tokens."""

    def over(self, parts: Parts) -> "TokenLoss":
        """The sums over all parts of a sequence."""
        correct, predicted = parts.sum(torch.stack((self.correct, self.predicted))).unbind()
        return TokenLoss(parts.sum(self.nll), correct, predicted)

    def fields(self, num_items_in_batch: int | Tensor | None) -> dict[str, Tensor]:
        """What an output says of the loss."""
        return {"loss": self.reduce(num_items_in_batch), "correct": self.correct, "predicted": self.predicted}

    def reduce(self, num_items_in_batch: int | Tensor | None) -> Tensor:
        """Mean over predicted tokens, or the sum divided by `num_items_in_batch`; 0, with its graph, without any."""
        if num_items_in_batch is None:
            return self.nll / self.predicted.clamp(min=1)
        if isinstance(num_items_in_batch, Tensor):
            return self.nll / num_items_in_batch.clamp(min=1)
        return self.nll / max(num_items_in_batch, 1)


class TokenScores(NamedTuple):
    """What a model makes of each token; 0 and False where nothing was to be predicted."""

    nll: Float[Tensor, "b l"]
    """Negative log-likelihood, nats."""
    correct: Bool[Tensor, "b l"]
    """Whether it had the largest logit."""


def ask_labels(
    labels: Int[Tensor, "..."], shape: Sequence[int], classes: int, what: str, ignored: str, questions: Questions
) -> None:
    """Ask whether labels are classes or -100; InputError for another shape at once, for other values with the answer.

    `what` says how many classes there are, `ignored` what -100 is for.
    """
    if labels.shape != torch.Size(shape):
        letters = "[b, l]" if len(shape) == 2 else "[b]"
        raise InputError(f"labels have shape {list(labels.shape)}; they must be {letters} = {list(shape)}")
    if not labels.numel():
        return

    def check(ends: Sequence[int]) -> None:
        low, high = ends
        if low < 0 or high >= classes:
            raise InputError(
                f"labels hold {low if low < 0 else high}; {what}, so 0 to {classes - 1} are valid, and {IGNORED} for "
                f"what {ignored}"
            )

    questions.ask(torch.stack(labels.masked_fill(labels == IGNORED, 0).aminmax()), check)


def next_token_targets(
    labels: Int[Tensor, "b l"],
    attention_mask: Shaped[Tensor, "b l"] | None = None,
    segment_ids: Int[Tensor, "b l"] | None = None,
) -> Int[Tensor, "b l"]:
    """What each token predicts: the label of the next slot.

    Nothing (-100) at the last slot, where either slot is padding, and where the next starts another document.
    """
    targets = torch.full_like(labels, IGNORED)
    targets[:, :-1] = labels[:, 1:]
    if attention_mask is not None:
        real = attention_mask.bool()
        targets[:, :-1].masked_fill_(~(real[:, :-1] & real[:, 1:]), IGNORED)
    if segment_ids is not None:
        targets[:, :-1].masked_fill_(segment_ids[:, 1:] != segment_ids[:, :-1], IGNORED)
    return targets


def token_loss(
    hidden: Float[Tensor, "b l width"],
    targets: Int[Tensor, "b l"],
    to_logits: Callable[[Tensor], Tensor],
    loss_chunk: int = 0,
    smoothing: float = 0.0,
) -> TokenLoss:
    """Sum the losses of all targets but -100, `loss_chunk` tokens at a time (0: all at once).

    The backward computes the logits of each piece once more. Where few tokens are to be predicted, pieces hold those
    alone (on CPUs, which need not wait to count them). `smoothing`: the share of each target's probability that
    is spread evenly over all tokens (Szegedy et al. 2016, section 7).
    """
    flat, flat_targets = hidden.flatten(0, 1), targets.flatten()

    def piece(states: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        nll, correct = _piece(to_logits(states), wanted, "sum", smoothing)
        return nll, correct.sum()

    predicted = (flat_targets != IGNORED).sum()
    if not loss_chunk:
        nll, correct = piece(flat, flat_targets)
        return TokenLoss(nll, correct, predicted.to(nll.device))
    countable = predicted.device.type == "cpu" and not torch.compiler.is_compiling() and not without_values(predicted)
    if countable and not _in_step_with_others() and 0 < 2 * int(predicted) < len(flat):
        asked = flat_targets != IGNORED
        flat, flat_targets = flat[asked], flat_targets[asked]
    pieces = [
        checkpoint(piece, states, wanted, use_reentrant=False)
        for states, wanted in zip(flat.split(loss_chunk), flat_targets.split(loss_chunk), strict=True)
    ]
    nll, correct = (torch.stack(parts).sum() for parts in zip(*pieces, strict=True))
    return TokenLoss(nll, correct, predicted.to(nll.device))


def _in_step_with_others() -> bool:
    """Whether other processes may wait for each of this one's pieces, as sharded weights make them."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def token_scores(
    hidden: Float[Tensor, "b l width"],
    targets: Int[Tensor, "b l"],
    to_logits: Callable[[Tensor], Tensor],
    loss_chunk: int = 0,
) -> TokenScores:
    """The loss of each target, `loss_chunk` tokens at a time (0: all at once), without a graph."""
    flat, flat_targets = hidden.flatten(0, 1), targets.flatten()
    size = loss_chunk or max(len(flat), 1)
    with torch.no_grad():
        pieces = [
            _piece(to_logits(states), wanted, "none")
            for states, wanted in zip(flat.split(size), flat_targets.split(size), strict=True)
        ]
    nll, correct = (torch.cat(parts).view(targets.shape) for parts in zip(*pieces, strict=True))
    return TokenScores(nll, correct)


def _piece(logits: Tensor, wanted: Tensor, reduction: str, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    logits, wanted = logits.to(torch.promote_types(logits.dtype, torch.float32)), wanted.to(logits.device)
    nll = F.cross_entropy(logits, wanted, ignore_index=IGNORED, reduction=reduction, label_smoothing=smoothing)
    return nll, logits.detach().argmax(-1) == wanted
