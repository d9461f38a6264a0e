"""The cache of a local layer: a ring of the last window, and of what a crop could bring back into it."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reformer.layers.caches.layer import CacheLayer
from reformer.layers.caches.step import Step
from reformer.ops.attention import attend_nearby
from reformer.ops.sequences import Sequences
from reformer.ops.spec import Band, Local


class LocalCache(CacheLayer):
    """Keys and values of the last tokens."""

    def __init__(self, crop_limit: int, spec: Local) -> None:
        assert isinstance(spec.rule, Band)
        window = spec.rule.window
        super().__init__(crop_limit, {"keys": window - 1, "values": window - 1})
        self.spec, self.window, self.size = spec, window, window - 1 + crop_limit

    def prepare(self, step: Step) -> None:
        """Nothing to do: a ring has its room."""

    def extend(self, k: Float[Tensor, "b h k d"], v: Float[Tensor, "b h k d"], step: Step) -> None:
        """Keep the last of the new tokens."""
        self.recent["keys"].write(k, step)
        self.recent["values"].write(v, step)

    def attend(
        self, q: Float[Tensor, "b h k d"], k: Float[Tensor, "b h k d"], v: Float[Tensor, "b h k d"], step: Step
    ) -> Float[Tensor, "b h k d"]:
        """Attend from new tokens to the last `window`, themselves included."""
        if q.shape[2] > self.crop_limit:
            out = self._attend_to_a_piece(q, k, v, step)
            self.recent["values"].write(v, step)
            return out
        self.extend(k, v, step)
        keys, values = (recent.data[:, :, : self.size].to(q.dtype) for recent in self.recent.values())  # type: ignore[index]
        mask = step.remember(("window", self.window), lambda: self._mask(step.rank.unsqueeze(-1)))
        return F.scaled_dot_product_attention(q, keys, values, mask)

    def _mask(self, rank: Int[Tensor, "b k 1"]) -> Bool[Tensor, "b 1 k size"]:
        age = (rank - torch.arange(self.size, device=rank.device)) % self.size
        return ((age < self.window) & (age <= rank))[:, None]

    def _attend_to_a_piece(self, q: Tensor, k: Tensor, v: Tensor, step: Step) -> Tensor:
        """The last tokens in front of a long piece, and the piece, as a sequence of their own."""
        values = self.recent["values"].before(step, v.dtype)[0]

        def attend(keys: Tensor, sequences: Sequences) -> Tensor:
            behind = keys.shape[2] - q.shape[2]
            queries, delivered = F.pad(q, (0, 0, behind, 0)), torch.cat((values, v), dim=2)
            return attend_nearby(queries, keys, delivered, self.spec, sequences)

        return self.recent["keys"].follow(k, step, attend)
