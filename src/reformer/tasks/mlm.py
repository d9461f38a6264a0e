"""Masked language modelling (Devlin et al. 2018): tokens that are hidden, from both their sides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reformer.data.task import Advance, Result, nothing
from reformer.errors import InputError
from reformer.ops.checks import check_probability
from reformer.tasks.windows import WindowTask

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from reformer.data.tokenizer import Tokenizer


@dataclass(kw_only=True)
class MaskedLanguageModelling(WindowTask):
    """Find hidden tokens."""

    task: str = "mlm"
    mask: float = 0.15
    """Share of the tokens that is to be predicted (mlm)."""

    model_name = "ReformerForMaskedLM"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_probability("mask", self.mask)
        if not self.mask:
            raise InputError("mask=0 leaves nothing to predict; give a share above 0, as 0.15")

    def windows(self, windows: Dataset[Any], tokenizer: Tokenizer, seed: int, held_out: bool) -> Dataset[Any]:
        """With tokens hidden."""
        from reformer.data.masking import MaskedWindows

        return MaskedWindows(windows, tokenizer, self.mask, seed)

    def evaluate(
        self,
        model: Any,
        tokenizer: Tokenizer,
        length: int,
        *,
        batch_size: int | None = None,
        advance: Advance = nothing,
        **options: Any,
    ) -> Result:
        """Loss, perplexity and accuracy on hidden tokens, the same ones each time."""
        from reformer.data.corpus import read_documents
        from reformer.inference.evaluate import evaluate_masked

        if not self.files:
            raise InputError("a model for task='mlm' finds hidden tokens in files; give some")
        documents = read_documents(self.files, self.field, self.raw)
        score = evaluate_masked(model, documents, length, self.mask, tokenizer=tokenizer, advance=advance)
        scores = {"loss": score.loss, "perplexity": score.perplexity, "accuracy": score.accuracy}
        return Result(scores, [], {"masked tokens": f"{score.tokens:,}"})
