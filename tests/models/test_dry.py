"""The penalty on repeated sequences, beside a search by hand."""

import itertools

import pytest
import torch

from reformer.models import DryLogitsProcessor
from tests.models.conftest import Make


def by_hand(text: list[int], multiplier: float, base: float, allowed: int, last_n: int) -> dict[int, float]:
    text, found = text[-last_n:], {}
    for end in range(1, len(text)):  # what stands in front of `end` beside what stands at the text's end
        pairs = zip(reversed(text[:end]), reversed(text), strict=False)
        n = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        if n >= allowed:
            found[text[end]] = max(found.get(text[end], 0.0), multiplier * base ** (n - allowed))
    return found


@pytest.mark.parametrize(("allowed", "last_n"), [(1, 64), (3, 64), (3, 20), (2, 2)])
def test_what_goes_on_with_a_repetition_loses_what_a_search_by_hand_says(allowed: int, last_n: int) -> None:
    torch.manual_seed(0)
    texts = torch.cat((torch.randint(3, 6, (30, 50)), torch.randint(3, 6, (30, 2)).repeat(1, 6)), 1)
    scores = torch.randn(30, 8, dtype=torch.float64)
    left = DryLogitsProcessor(0.5, base=1.5, allowed_length=allowed, penalty_last_n=last_n)(texts, scores)
    for text, before, after in zip(texts.tolist(), scores, left, strict=True):
        expected = torch.zeros(8, dtype=torch.float64)
        for token, penalty in by_hand(text, 0.5, 1.5, allowed, last_n).items():
            expected[token] = penalty
        torch.testing.assert_close(before - after, expected)


def test_nothing_is_penalised_at_strength_0_however_fast_it_grows() -> None:
    scores = torch.randn(1, 8)
    assert DryLogitsProcessor(0, base=1e10)(torch.full((1, 100), 3), scores).equal(scores)


@pytest.mark.parametrize("text", [[5], [5, 5], [3] * 500])
def test_texts_of_one_token_and_long_runs_give_finite_scores(text: list[int]) -> None:
    scores = DryLogitsProcessor(0.8, base=10.0, allowed_length=1, penalty_last_n=1000)(
        torch.tensor([text]), torch.zeros(1, 8)
    )
    assert torch.isfinite(scores).all()
    assert (scores[0, text[0]] < 0) == (len(text) > 1)


def test_a_model_that_repeats_itself_no_longer_does(make: Make) -> None:
    lm = make(attention_pattern=("local", "lsh"), eos_token_id=None).eval()
    with torch.no_grad():
        for weight in lm.parameters():
            weight.mul_(0.01)
        lm.lm_head.weight.zero_()  # all tokens alike: greedy takes the first one again and again
    x = torch.randint(3, 40, (2, 5))
    alone = lm.generate(x, max_new_tokens=40, do_sample=False)[:, 5:]
    dry = DryLogitsProcessor(allowed_length=4)
    mended = lm.generate(x, max_new_tokens=40, do_sample=False, logits_processor=[dry])[:, 5:]
    assert (alone == alone[:, :1]).all()
    assert all(len(list(run)) <= 5 for row in mended.tolist() for _, run in itertools.groupby(row))


@pytest.mark.parametrize("name", ["multiplier", "base", "allowed_length", "penalty_last_n"])
def test_values_out_of_range_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}=-1 must be at least"):
        DryLogitsProcessor(**{name: -1})
