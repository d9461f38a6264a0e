"""Pictures of which keys each query sees, from what the operations themselves return."""

from html import escape
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from reformer.ops.attention import local_attention, lsh_attention
from reformer.ops.checks import check_choice
from reformer.ops.exact_attention import exact_attention
from reformer.report.chart import COLOURS, STYLE

KINDS = ("lsh", "local", "full")
"""By content, by place, by scaled product of all pairs."""

TITLES = {
    "lsh": "by content: the last of the query's buckets",
    "local": "by place: the last tokens",
    "full": "all pairs",
}


def attention_weights(
    kind: str, q: Float[Tensor, "l l"], *, causal: bool = True, window: int = 8, rounds: int = 2, seed: int = 0
) -> Float[Tensor, "l l"]:
    """How much of each key is in each query's output: values that are the rows of the identity come back as weights.

    `q` are queries and keys alike, as wide as there are tokens. Raises InputError for another kind than `KINDS`.
    """
    check_choice("kind", kind, KINDS)
    vectors, values = q[None, None], torch.eye(len(q), dtype=q.dtype)[None, None]
    if kind == "full":
        return exact_attention(vectors, vectors, values, causal=causal)[0, 0]
    if kind == "local":
        return local_attention(vectors, vectors, values, window=window, causal=causal)[0, 0]
    options: dict[str, Any] = {"num_hashes": rounds, "window": window, "causal": causal, "seed": seed}
    return lsh_attention(vectors, values, successor_values=False, **options)[
        0, 0
    ]  # weights of keys, not of what follows


def sample_text(length: int, topics: int, seed: int = 0) -> tuple[Float[Tensor, "l l"], Int[Tensor, "l"]]:
    """Vectors of tokens that are about a few topics, and the topic of each: words of a topic lie near each other."""
    generator = torch.Generator().manual_seed(seed)
    topic = torch.randint(topics, (length,), generator=generator)
    centres = torch.randn(topics, length, generator=generator)
    return centres[topic] + 0.3 * torch.randn(length, length, generator=generator), topic


CELL, MARGIN = 4, 34
FILLS = ".chart .fill { stroke: none; } .chart .grey { fill: var(--grid); }" + "".join(
    f".chart .fill.p{i} {{ fill: var(--c{i}); }}" for i in range(COLOURS)
)


def draw_attention(kind: str, *, causal: bool = True, length: int = 96, topics: int = 6) -> str:
    """An SVG with a square for each pair of a query and a key that it sees: in their topic's colour, else grey.

    Raises InputError for another kind than `KINDS`.
    """
    q, topic = sample_text(length, topics)
    seen = (attention_weights(kind, q, causal=causal) > 0).numpy()
    queries, keys = np.nonzero(seen)
    of, size = topic.numpy(), MARGIN + length * CELL + 8
    drawn: dict[str, list[str]] = {}
    for i, j in zip(queries.tolist(), keys.tolist(), strict=True):
        colour = f"p{of[i] % COLOURS}" if of[i] == of[j] else "grey"
        drawn.setdefault(colour, []).append(f"M{MARGIN + j * CELL} {MARGIN + i * CELL}h3v3h-3")
    squares = "".join(f'<path class="fill {colour}" d="{"".join(some)}"/>' for colour, some in sorted(drawn.items()))
    title = escape(f"{TITLES[kind]}: {seen.sum() / length:.1f} keys a query")
    axes = (
        f'<text class="tick" x="{size / 2}" y="{size + 14}" text-anchor="middle">key</text>'
        f'<text class="tick" transform="translate(14 {size / 2}) rotate(-90)" text-anchor="middle">query</text>'
        f'<path class="grid" d="M{MARGIN} {MARGIN}V{size - 8}H{size - 8}"/>'
    )
    return (
        f'<svg class="chart" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size} {size + 24}" role="img" '
        f'aria-label="{title}"><style>{STYLE}svg {{ background: var(--paper); }}'
        f"{FILLS}</style>"
        f'<text class="title" x="12" y="20">{title}</text>{axes}{squares}</svg>'
    )
