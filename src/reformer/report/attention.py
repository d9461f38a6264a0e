"""Pictures of which keys each query sees, from what the operations themselves return."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from reformer.ops.attention import local_attention, lsh_attention
from reformer.ops.checks import check_choice
from reformer.ops.exact_attention import exact_attention

KINDS = ("lsh", "local", "full")
"""By content, by place, by scaled product of all pairs."""

TITLES = {
    "lsh": "by content: the last tokens of the query's hash buckets",
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


def plot_attention(kind: str, path: Path, *, causal: bool = True, length: int = 96, topics: int = 6) -> None:
    """Draw a dot for each pair of a query and a key that it sees: in their topic's colour, or grey if that differs.

    Raises InputError for another kind than `KINDS`.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    q, topic = sample_text(length, topics)
    seen = (attention_weights(kind, q, causal=causal) > 0).numpy()
    queries, keys = np.nonzero(seen)
    figure, axes = plt.subplots(figsize=(4.4, 4.6), layout="constrained")
    of = topic.numpy()
    colours = np.array(mpl.colormaps["tab10"](of[queries]))
    colours[of[queries] != of[keys]] = mpl.colors.to_rgba("0.8")
    axes.scatter(keys, queries, c=colours, s=5, marker="s", linewidths=0)
    axes.set_xlim(-1, length)
    axes.set_ylim(length, -1)
    axes.set_aspect("equal")
    axes.set_xlabel("key")
    axes.set_ylabel("query")
    axes.set_title(f"{TITLES[kind]}\n{seen.sum() / length:.1f} keys a query", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)
