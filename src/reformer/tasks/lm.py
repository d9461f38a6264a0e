"""Language modelling: the next token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reformer.data.task import Advance, Result, nothing
from reformer.ops.checks import check_probability
from reformer.tasks.windows import WindowTask

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from reformer.data.tokenizer import Tokenizer


@dataclass(kw_only=True)
class LanguageModelling(WindowTask):
    """Predict each token from those in front of it."""

    task: str = "lm"
    cut_windows: float = 0.25
    """Share of windows cut into pieces that see nothing of each other, so that starts of texts are learned (lm)."""

    model_name = "ReformerForCausalLM"
    causal = True
    adapters = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_probability("cut_windows", self.cut_windows)

    def windows(self, windows: Dataset[Any], tokenizer: Tokenizer, seed: int, held_out: bool) -> Dataset[Any]:
        """Those to train on, a share of them cut."""
        from reformer.data.cutting import CutWindows

        cut = self.cut_windows and not held_out
        return CutWindows(windows, self.cut_windows, seed) if cut else windows

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
        """Loss, bits per byte, perplexity and accuracy; `reformer.inference.evaluate` says more."""
        from reformer.data.corpus import read_documents
        from reformer.inference.evaluate import evaluate

        documents = read_documents(self.files, self.field, self.raw)
        score = evaluate(model, documents, length, tokenizer=tokenizer, batch_size=batch_size or 1, advance=advance)
        names = ("loss", "bits_per_byte", "perplexity", "accuracy")
        return Result({name.replace("_", " "): getattr(score, name) for name in names}, [])
