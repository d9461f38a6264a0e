"""Windows with tokens hidden, for a model to find (Devlin et al. 2018, section 3.1)."""

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from reformer.data.tokenizer import Tokenizer
from reformer.data.windows import row_of
from reformer.settings.data import IGNORED

MASKED, OTHER = 0.8, 0.1
"""Of the tokens to predict: the share that becomes the mask, and the share that becomes some other token."""


class MaskedWindows(Dataset[dict[str, Tensor]]):
    """The windows of another dataset; which tokens are hidden depends on the seed and the window's number alone."""

    def __init__(self, windows: Dataset[dict[str, Tensor]], tokenizer: Tokenizer, share: float, seed: int) -> None:
        self.windows, self.tokenizer, self.share, self.seed = windows, tokenizer, share, seed

    def __len__(self) -> int:
        return len(self.windows)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        ids = self.windows[index]["input_ids"]
        random = np.random.default_rng((self.seed, row_of(self.windows, index)))
        chosen = torch.from_numpy(random.random(len(ids)) < self.share) & (ids != self.tokenizer.end)
        if not chosen.any():  # of a short text too there is something to learn
            chosen[random.integers(len(ids))] = True
        how = torch.from_numpy(random.random(len(ids)))
        other = torch.from_numpy(random.integers(self.tokenizer.vocabulary, size=len(ids)))
        other = torch.where(other == self.tokenizer.end, self.tokenizer.mask, other)
        shown = torch.where(how < MASKED, self.tokenizer.mask, torch.where(how < MASKED + OTHER, other, ids))
        return {"input_ids": torch.where(chosen, shown, ids), "labels": ids.masked_fill(~chosen, IGNORED)}
