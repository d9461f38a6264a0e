"""What users of a task read: accuracy, F1, exact match, BLEU, chrF."""

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

_Span = tuple[int, int, str]


@dataclass(frozen=True)
class F1:
    """Right ones among those found (precision) and among those there are (recall), and their harmonic mean."""

    right: int
    found: int
    there: int

    @property
    def precision(self) -> float:
        """0 where nothing was found."""
        return self.right / self.found if self.found else 0.0

    @property
    def recall(self) -> float:
        """0 where nothing is there."""
        return self.right / self.there if self.there else 0.0

    @property
    def value(self) -> float:
        """The harmonic mean."""
        return 2 * self.right / (self.found + self.there) if self.found + self.there else 0.0


def accuracy(answers: Sequence[str], there: Sequence[str]) -> float:
    """The share that agrees."""
    return sum(a == b for a, b in zip(answers, there, strict=True)) / max(len(there), 1)


def f1_by_class(answers: Sequence[str], there: Sequence[str]) -> dict[str, F1]:
    """F1 of each class that was found or is there."""
    pairs = list(zip(answers, there, strict=True))
    return {
        name: F1(sum(a == b == name for a, b in pairs), answers.count(name), there.count(name))
        for name in sorted({*answers, *there})
    }


def spans_f1(answers: Sequence[Sequence[str]], there: Sequence[Sequence[str]]) -> F1:
    """F1 of whole spans: a span is right if its place and its name are (CoNLL-2000).

    Tags are B-name, I-name, and O or anything else outside of spans; an I- behind another name begins a span.
    """
    pairs = [(set(_spans(a)), set(_spans(b))) for a, b in zip(answers, there, strict=True)]
    return F1(sum(len(a & b) for a, b in pairs), sum(len(a) for a, _ in pairs), sum(len(b) for _, b in pairs))


def has_spans(tags: Sequence[str]) -> bool:
    """Whether a set of tags names spans."""
    return any(tag.startswith(("B-", "I-")) for tag in tags)


def _spans(tags: Sequence[str]) -> list[_Span]:
    spans: list[_Span] = []
    start, name = 0, ""
    for i, tag in enumerate([*tags, "O"]):
        kind, _, now = tag.partition("-")
        if name and (kind != "I" or now != name):
            spans.append((start, i, name))
            name = ""
        if kind in ("B", "I") and not name:
            start, name = i, now
    return spans


def exact_match(answer: str, right: Sequence[str]) -> bool:
    """Whether an answer is one of the right ones, but for case, punctuation and articles (SQuAD)."""
    return any(_normal(answer) == _normal(one) for one in right)


def words_f1(answer: str, right: Sequence[str]) -> float:
    """F1 of the words of an answer, against the right one that it fits best (SQuAD)."""
    best = 0.0
    for one in right:
        a, b = _normal(answer).split(), _normal(one).split()
        shared = sum((Counter(a) & Counter(b)).values())
        best = max(best, F1(shared, len(a), len(b)).value if a or b else 1.0)
    return best


def _normal(text: str) -> str:
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


@dataclass(frozen=True)
class Translation:
    """Scores of a translated text, and the settings that they were computed with."""

    bleu: float
    bleu_signature: str
    chrf: float
    chrf_signature: str


def translation_scores(lines: Sequence[str], there: Sequence[str]) -> Translation:
    """BLEU (13a, case counts) and chrF2 of whole lines, by sacrebleu (Post 2018)."""
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    bleu, chrf = BLEU(), CHRF()
    scores = [metric.corpus_score(list(lines), [list(there)]).score for metric in (bleu, chrf)]
    return Translation(scores[0], str(bleu.get_signature()), scores[1], str(chrf.get_signature()))
