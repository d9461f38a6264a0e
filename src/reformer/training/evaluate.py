"""Loss, bits per byte, perplexity and accuracy of a model over whole documents."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from reformer.data.corpus import Document
from reformer.data.windows import evaluation_windows, join_documents
from reformer.models import ReformerForCausalLM
from reformer.models.cache import ReformerCache


@dataclass(frozen=True)
class Evaluation:
    """Means over all bytes of the documents."""

    loss: float
    """Nats a byte."""
    bits_per_byte: float
    perplexity: float
    accuracy: float
    """Share of bytes that were the likeliest."""
    bytes: int


@torch.no_grad()
def evaluate(
    model: ReformerForCausalLM,
    documents: Sequence[Document],
    length: int,
    *,
    batch_size: int = 1,
    advance: Callable[[int], None] = lambda _: None,
) -> Evaluation:
    """Predict each byte once, within windows of `length` tokens; `advance` is told the bytes done.

    The same call gives the same bits, whatever the global seed. Raises ValueError without documents.
    """
    if not documents:
        raise ValueError("there is no document to evaluate on")
    if length < 2:
        raise ValueError(f"length={length} must be at least 2 tokens: one to predict from and one to predict")
    totals = np.zeros(3)
    with evaluating(model):
        for windows in _batches(documents, length, batch_size):
            tokens = torch.from_numpy(windows).to(model.device)
            output = model(tokens, labels=tokens, num_items_in_batch=1, logits_to_keep=1)
            totals += [float(output.loss), int(output.correct), int(output.predicted)]
            advance(int(output.predicted))
    return _summarise(totals)


@torch.no_grad()
def evaluate_stream(
    model: ReformerForCausalLM,
    documents: Sequence[Document],
    piece: int,
    *,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[Evaluation, int]:
    """Predict each byte from all of its document that stands before it, `piece` tokens at a time.

    The same as one forward over each document, in the memory of one piece and the cache, whose most bytes are returned
    too. Raises ValueError without documents, and for a model that has no cache.
    """
    if not documents:
        raise ValueError("there is no document to evaluate on")
    totals, most = np.zeros(3), 0
    with evaluating(model):
        for document in documents:
            tokens = torch.from_numpy(join_documents([document]))
            cache = ReformerCache(model.config, room=len(tokens))
            for start in range(0, len(tokens) - 1, piece):
                end = min(start + piece, len(tokens) - 1)
                now, following = (
                    tokens[None, i:j].long().to(model.device) for i, j in ((start, end), (start + 1, end + 1))
                )
                sums = model.score(now, following, past_key_values=cache)
                totals += [float(sums.nll), int(sums.correct), int(sums.predicted)]
                advance(int(sums.predicted))
            most = max(most, cache.bytes())
    return _summarise(totals), most


@contextmanager
def evaluating(model: ReformerForCausalLM) -> Iterator[None]:
    """The model in evaluation mode, and afterwards as it was."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _summarise(totals: NDArray[np.float64]) -> Evaluation:
    nll, correct, predicted = totals
    loss = nll / predicted
    perplexity = math.exp(loss) if loss < 700 else math.inf
    return Evaluation(loss, loss / math.log(2), perplexity, correct / predicted, int(predicted))


def _batches(documents: Sequence[Document], length: int, batch_size: int) -> Iterator[NDArray[np.int64]]:
    """Windows of equal length together, in order."""
    waiting: list[NDArray[np.int64]] = []
    for document in documents:
        for window in evaluation_windows(document, length):
            if waiting and len(waiting[0]) != len(window):
                yield np.stack(waiting)
                waiting = []
            waiting.append(window)
            if len(waiting) == batch_size:
                yield np.stack(waiting)
                waiting = []
    if waiting:
        yield np.stack(waiting)
