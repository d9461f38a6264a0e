"""Evaluations side by side, as text and as JSON."""

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from reformer.data.corpus import Document
from reformer.inference.evaluate import Evaluation, Score

SCORES = ("loss", "bits_per_byte", "perplexity", "accuracy")


class Measured(NamedTuple):
    """A model and what was found."""

    name: str
    context: dict[str, int]
    """`length` and `stride` in tokens, `processes`, or `cache_bytes`; the tokens `behind` which each file stands."""
    result: Evaluation


def as_json(measured: Sequence[Measured], documents: Sequence[Document], per_document: bool, per_position: bool) -> str:
    """An object, or a list of them for several models."""
    results = []
    for name, context, result in measured:
        entry = {"model": name, **_scores(result), "bytes": result.bytes, "tokens": result.tokens, **context}
        entry["files"] = [document.name for document in documents]
        if per_document:
            entry["documents"] = [
                {"name": document.name, **_scores(score), "bytes": score.bytes}
                for document, score in zip(documents, result.documents, strict=True)
            ]
        if per_position:
            entry["positions"] = [
                {"from": 1 << k, "tokens": score.tokens, "loss": score.loss, "accuracy": score.accuracy}
                for k, score in sorted(result.positions.items())
            ]
        results.append(entry)
    return json.dumps(results if len(results) > 1 else results[0])


def as_text(measured: Sequence[Measured], documents: Sequence[Document], per_document: bool, per_position: bool) -> str:
    """Tables, a column for each model."""
    names = [one.name for one in measured] if len(measured) > 1 else []
    results = [one.result for one in measured]
    rows = [
        *([["model", *names]] if names else []),
        ["bytes", *(f"{result.bytes:,} in {len(documents):,} documents" for result in results)],
        ["context", *(_context(one.context) for one in measured)],
        ["loss", *(f"{result.loss:.4f} nats a token" for result in results)],
        ["bits per byte", *(f"{result.bits_per_byte:.4f}" for result in results)],
        ["perplexity", *(f"{result.perplexity:.3f}" for result in results)],
        ["accuracy", *(f"{result.accuracy:.4f}" for result in results)],
    ]
    parts = [_table(rows)]
    if per_document:
        bits = ([f"{result.documents[i].bits_per_byte:.4f}" for result in results] for i in range(len(documents)))
        sizes = ([document.name, f"{len(document.text):,}"] for document in documents)
        heads = ["document", "bytes", *(names or ["bits per byte"])]
        parts.append(_table([heads, *(size + bit for size, bit in zip(sizes, bits, strict=True))]))
    if per_position:
        heads = ["tokens of context", "tokens", *(names or ["nats a token"])]
        parts.append(_table([heads, *_positions(results)]))
    return "\n\n".join(parts)


def _positions(results: Sequence[Evaluation]) -> Iterable[list[str]]:
    for k in sorted({k for result in results for k in result.positions}):
        scores = [result.positions.get(k, Score()) for result in results]
        losses = (f"{score.loss:.4f}" if score.tokens else "" for score in scores)
        yield [f"{1 << k:,} to {(2 << k) - 1:,}", f"{scores[0].tokens:,}", *losses]


def _scores(score: Score) -> dict[str, Any]:
    return {name: getattr(score, name) for name in SCORES}


def _context(context: dict[str, int]) -> str:
    if "length" in context:
        return f"windows of {context['length']:,} tokens"
    if "processes" in context:
        return f"one each, over {context['processes']} processes"
    front = f" behind {context['behind']:,} tokens" if "behind" in context else ""
    return f"one each{front}; cache of {context['cache_bytes'] / 2**20:,.1f} MiB"


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Columns two spaces apart."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
