"""The convolution in front of queries and keys: what a token is matched by holds some of its past."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from reformer.layers.caches.recent import Recent
from reformer.layers.caches.step import Step
from reformer.ops.checks import check_integer
from reformer.ops.convolution import convolve, convolve_recent, tap_offsets
from reformer.ops.exchange import Parts
from reformer.ops.halo import convolve_part
from reformer.ops.sequences import Sequences


class ShortConvolution(nn.Module):
    """A weight a channel and tap [hidden, size], over the token and those around it in its document (`docs/rule.md`).

    Columns are in time order: with `causal` the last is the token itself, and the weight begins as the identity.
    Without, there are `size // 2` tokens before it and `(size - 1) // 2` after, and the weight begins as the mean of
    these neighbours without the token: masked tokens are all alike, and would else match each other.

    Raises InputError for a size below 1.
    """

    def __init__(self, hidden_size: int, size: int, causal: bool = True) -> None:
        super().__init__()
        check_integer("size", size, 1)
        self.causal = causal
        self.weight = nn.Parameter(torch.empty(hidden_size, size))
        self.reset_parameters()

    def initial_weight(self) -> Float[Tensor, "hidden size"]:
        """What the weight begins as."""
        size = self.weight.shape[1]
        taps = torch.zeros(size) if self.causal or size == 1 else torch.full((size,), 1 / (size - 1))
        taps[tap_offsets(size, self.causal).index(0)] = 1.0 if self.causal or size == 1 else 0.0
        return taps.to(self.weight).expand_as(self.weight)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Begin anew."""
        self.weight.copy_(self.initial_weight())

    def extra_repr(self) -> str:
        """Width, taps, direction."""
        return f"{self.weight.shape[0]}, size={self.weight.shape[1]}, causal={self.causal}"

    def forward(
        self,
        x: Float[Tensor, "b l hidden"],
        sequences: Sequences | None = None,
        recent: Recent | None = None,
        parts: Parts | None = None,
    ) -> Float[Tensor, "b l hidden"]:
        """Convolve; `recent` holds the tokens in front of x, which `sequences`, a `Step`, describes; it takes up x.

        With `parts`, x is this process's of the whole sequences.
        """
        if parts is not None and sequences is not None:
            return convolve_part(x, self.weight, sequences, parts, causal=self.causal)
        sequences = Sequences.of(x) if sequences is None else sequences
        if recent is None or not isinstance(sequences, Step):
            return self._convolve(x, sequences)
        one_head = x[:, None]
        if sequences.first or x.shape[1] > recent.crop_limit:
            return recent.follow(one_head, sequences, lambda text, both: self._convolve(text[:, 0], both)[:, None])[
                :, 0
            ]
        recent.write(one_head, sequences)  # all that the new ones need is there now
        assert recent.data is not None
        return convolve_recent(recent.data[:, 0], sequences.rank, recent.size, self.weight).to(x.dtype)

    def _convolve(self, x: Tensor, sequences: Sequences) -> Tensor:
        return convolve(x, self.weight, sequences, causal=self.causal)
