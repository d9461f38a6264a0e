"""Loss, bits per byte, perplexity and accuracy of a model over whole documents."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor, nn

from reformer.data.corpus import Document
from reformer.data.masking import MaskedWindows
from reformer.data.stream import join_documents
from reformer.data.tokenizer import ByteTokenizer, Tokenizer
from reformer.data.windows import HeldOutWindows, evaluation_windows
from reformer.errors import InputError
from reformer.models import ReformerForCausalLM, ReformerForMaskedLM, ReformerPreTrainedModel, SequenceParallel
from reformer.models.cache import ReformerCache

Advance = Callable[[int], None]


@dataclass
class Score:
    """Sums over predicted tokens."""

    nll: float = 0.0
    """Nats."""
    correct: int = 0
    tokens: int = 0
    bytes: int = 0

    @property
    def loss(self) -> float:
        """Nats a token."""
        return self.nll / self.tokens if self.tokens else math.nan

    @property
    def bits_per_byte(self) -> float:
        """Bits a byte of text."""
        return self.nll / math.log(2) / self.bytes if self.bytes else math.nan

    @property
    def perplexity(self) -> float:
        """The exponential of the loss."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def accuracy(self) -> float:
        """Share of tokens that were the likeliest."""
        return self.correct / self.tokens if self.tokens else math.nan


@dataclass
class Evaluation(Score):
    """The sums over all documents, over each one, and over the tokens that had so much context."""

    documents: list[Score] = field(default_factory=list)
    positions: dict[int, Score] = field(default_factory=dict)
    """By k: tokens with 2**k to 2**(k+1) - 1 tokens of context, that in front of the document included."""
    cache_bytes: int = 0
    """The most memory that a cache took, with `evaluate_stream`."""
    behind: int = 0
    """Tokens that stood in front of each document."""

    def add(self, document: Score, nll: NDArray[np.float64], correct: NDArray[np.bool_], context: int) -> None:
        """Count consecutive tokens of a document, the first of which has `context` tokens in front of it."""
        octaves = np.log2(np.arange(context, context + len(nll))).astype(int)
        for octave in np.unique(octaves):
            here = octaves == octave
            position = self.positions.setdefault(int(octave), Score())
            for score in (self, document, position):
                score.nll += float(nll[here].sum())
                score.correct += int(correct[here].sum())
                score.tokens += int(here.sum())


def evaluate(
    model: ReformerForCausalLM,
    documents: Sequence[Document],
    length: int,
    *,
    stride: int | None = None,
    tokenizer: Tokenizer | None = None,
    batch_size: int = 1,
    advance: Advance = lambda _: None,
) -> Evaluation:
    """Predict each token once, within windows of `length` tokens; `advance` is told the tokens done.

    Windows are `stride` tokens apart (the default has them follow one another), so that all but the first tokens have
    at least `length - stride` tokens of context. The same call gives the same bits, whatever the global seed.
    Raises InputError without documents.
    """
    tokenizer, stride = tokenizer or ByteTokenizer(), stride or length - 1
    _check(documents, tokenizer, model)
    if length < 2:
        raise InputError(f"length={length} must be at least 2 tokens: one to predict from and one to predict")
    if not 1 <= stride < length:
        raise InputError(f"stride={stride} must be from 1 to {length - 1}, below the window of {length} tokens")
    result = Evaluation()
    with evaluating(model):
        for batch in _batches(result, documents, tokenizer, length, stride, batch_size):
            windows = torch.stack([window for window, *_ in batch]).to(model.device)
            scored = model.score(windows[:, :-1], windows[:, 1:])
            for (_, last, document), nll, correct in zip(batch, scored.nll, scored.correct, strict=True):
                context = windows.shape[1] - last
                result.add(document, _numbers(nll[-last:]), correct[-last:].cpu().numpy(), context)
                advance(last)
    return result


def evaluate_stream(
    model: ReformerForCausalLM,
    documents: Sequence[Document],
    piece: int,
    *,
    tokenizer: Tokenizer | None = None,
    behind: ReformerCache | None = None,
    advance: Advance = lambda _: None,
) -> Evaluation:
    """Predict each token from all of its document that stands before it, `piece` tokens at a time.

    The same as one forward over each document, in the memory of one piece and the cache. With `behind`, each document
    stands alone behind the text of that cache (`read_behind`): all have a copy of it but the last, which takes it.
    Raises InputError without documents, and for a model that has no cache.
    """
    tokenizer = tokenizer or ByteTokenizer()
    _check(documents, tokenizer, model)
    result = Evaluation(behind=behind.seen if behind is not None else 0)
    with evaluating(model):
        for i, document in enumerate(documents):
            score, stream = _begin(result, document), join_documents([document], tokenizer)
            if behind is None:
                cache = ReformerCache(model.config, room=len(stream))
            else:
                cache = behind if i == len(documents) - 1 else copy.deepcopy(behind)
            context = cache.seen
            for start in range(0, len(stream) - 1, piece):
                part = torch.from_numpy(stream.part(start, min(start + piece + 1, len(stream))))[None].to(model.device)
                scored = model.score(part[:, :-1], part[:, 1:], past_key_values=cache)
                result.add(score, _numbers(scored.nll[0]), scored.correct[0].cpu().numpy(), context + start + 1)
                advance(part.shape[1] - 1)
            result.cache_bytes = max(result.cache_bytes, cache.bytes())
    return result


def evaluate_parts(
    model: ReformerForCausalLM,
    documents: Sequence[Document],
    processes: SequenceParallel,
    *,
    tokenizer: Tokenizer | None = None,
    advance: Advance = lambda _: None,
) -> Evaluation:
    """Predict each token from all of its document in front of it, in one forward that the processes share.

    All of them have the result. Raises InputError without documents, and where heads cannot be dealt out.
    """
    tokenizer = tokenizer or ByteTokenizer()
    _check(documents, tokenizer, model)
    result = Evaluation()
    with evaluating(model):
        for document in documents:
            score, stream = _begin(result, document), join_documents([document], tokenizer)
            tokens = torch.from_numpy(stream.part(0, len(stream)))[None]
            part = processes.part({"read": tokens[:, :-1], "predicted": tokens[:, 1:]})
            read, predicted = (x.to(model.device) for x in part.values())
            scored = [processes.whole(x)[0] for x in model.score(read, predicted, sequence_parallel=processes)]
            result.add(score, _numbers(scored[0]), scored[1].cpu().numpy(), 1)
            advance(tokens.shape[1] - 1)
    return result


def read_behind(
    model: ReformerForCausalLM,
    documents: Sequence[Document],
    piece: int,
    room: int,
    *,
    tokenizer: Tokenizer | None = None,
    advance: Advance = lambda _: None,
) -> tuple[ReformerCache, Int[Tensor, "1 l"]]:
    """The cache of documents one behind the other, with room for so many tokens more, and their tokens.

    Raises InputError without documents, and for a model that has no cache.
    """
    tokenizer = tokenizer or ByteTokenizer()
    _check(documents, tokenizer, model)
    stream = join_documents(documents, tokenizer)
    tokens = torch.from_numpy(stream.part(0, len(stream)))[None]
    cache = ReformerCache(model.config, room=len(stream) + room)
    read_on(model, cache, tokens, piece, advance)
    return cache, tokens


def read_on(
    model: ReformerForCausalLM,
    cache: ReformerCache,
    tokens: Int[Tensor, "1 l"],
    piece: int,
    advance: Advance = lambda _: None,
) -> None:
    """Bring a cache to the end of its text: `generate` leaves the last token of what it wrote out."""
    with torch.no_grad(), evaluating(model):
        for part in tokens[:, cache.seen :].split(piece, dim=1):
            if part.shape[1]:
                model.model(part.to(model.device), past_key_values=cache)
                advance(part.shape[1])


def evaluate_masked(
    model: ReformerForMaskedLM,
    documents: Sequence[Document],
    length: int,
    share: float,
    *,
    tokenizer: Tokenizer | None = None,
    advance: Advance = lambda _: None,
) -> Score:
    """Hide a share of the tokens, the same ones each time, and predict them from windows of `length` tokens."""
    tokenizer = tokenizer or ByteTokenizer()
    _check(documents, tokenizer, model)
    windows = MaskedWindows(HeldOutWindows(join_documents(documents, tokenizer), length), tokenizer, share, seed=0)
    total = Score()
    with torch.no_grad(), evaluating(model):
        for i in range(len(windows)):
            window = windows[i]
            ids, labels = (window[name][None].to(model.device) for name in ("input_ids", "labels"))
            output = model(ids, labels=labels, logits_to_keep=1)
            count = int(output.predicted)
            total.nll += float(output.loss) * count
            total.correct += int(output.correct)
            total.tokens += count
            advance(ids.shape[1])
    return total


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, and afterwards as it was."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _check(documents: Sequence[Document], tokenizer: Tokenizer, model: ReformerPreTrainedModel) -> None:
    if not any(document.text for document in documents):
        raise InputError("there is no document to evaluate on, or each is empty")
    if tokenizer.vocabulary > model.config.vocabulary:
        raise InputError(
            f"the tokenizer has {tokenizer.vocabulary} tokens, the model {model.config.vocabulary}: it is another's"
        )


def _begin(result: Evaluation, document: Document) -> Score:
    score = Score(bytes=len(document.text))
    result.documents.append(score)
    result.bytes += score.bytes
    return score


def _numbers(nll: Tensor) -> NDArray[np.float64]:
    return nll.double().cpu().numpy()


Window = tuple[Tensor, int, Score]


def _batches(
    result: Evaluation, documents: Sequence[Document], tokenizer: Tokenizer, length: int, stride: int, batch_size: int
) -> Iterator[list[Window]]:
    """Windows of equal length together, in order, each with how many of its last tokens to predict."""
    waiting: list[Window] = []
    for document in documents:
        score = _begin(result, document)
        for window, last in evaluation_windows(document, tokenizer, length, stride):
            if waiting and (len(waiting[0][0]) != len(window) or len(waiting) == batch_size):
                yield waiting
                waiting = []
            waiting.append((window, last, score))
    if waiting:
        yield waiting
