"""Windows in pieces that see nothing of each other."""

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from reformer.data.windows import row_of

SHORTEST = 16
"""Tokens of the shortest piece but for a window's last one."""


class CutWindows(Dataset[dict[str, Tensor]]):
    """The windows of another dataset, a share of them with `segment_ids`: pieces of 16 tokens up to the whole.

    A model that always has much to look up does not learn to predict without, nor to write the start of a text. The
    lengths of pieces are spread evenly over octaves; which windows are cut, and where, depends on the seed and the
    window's number alone.
    """

    def __init__(self, windows: Dataset[dict[str, Tensor]], share: float, seed: int) -> None:
        self.windows, self.share, self.seed = windows, share, seed

    def __len__(self) -> int:
        return len(self.windows)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        window = self.windows[index]
        length, random = len(window["input_ids"]), np.random.default_rng((self.seed, row_of(self.windows, index)))
        if length <= SHORTEST or random.random() >= self.share:
            return window
        starts = torch.zeros(length, dtype=torch.long)
        start = 0
        while start < length:
            starts[start] = 1
            start += int(np.exp(random.uniform(np.log(SHORTEST), np.log(length))))
        return {**window, "segment_ids": starts.cumsum(0)}
