import pytest
import torch

from reformer.data.corpus import Document
from reformer.data.stream import join_documents
from reformer.inference.evaluate import evaluate, evaluate_stream, read_behind
from tests.models.conftest import Make, make

__all__ = ["make"]

TEXT = bytes(range(256)) * 3 + b"to be or not to be " * 20


@pytest.mark.parametrize("piece", [1, 7, 500, 5000])
def test_pieces_predict_what_one_forward_predicts(make: Make, piece: int) -> None:
    lm = make(vocab_size=259, attention_pattern=("local", "lsh", "full"))
    documents = [Document("a", TEXT[: 60 if piece == 1 else None]), Document("b", TEXT[:300])]
    whole = evaluate(lm, documents, 5000)
    told: list[int] = []
    result = evaluate_stream(lm, documents, piece, advance=told.append)
    assert abs(result.loss - whole.loss) < 1e-12
    assert (result.bytes, result.accuracy) == (whole.bytes, whole.accuracy)
    assert sum(told) == whole.bytes
    assert result.cache_bytes > 0


def test_a_model_without_a_cache_is_refused(make: Make) -> None:
    with pytest.raises(ValueError, match="no cache"):
        evaluate_stream(make(vocab_size=259, rule="chunk"), [Document("a", TEXT)], 100)
    with pytest.raises(ValueError, match="no document"):
        evaluate_stream(make(vocab_size=259), [], 100)


@pytest.mark.parametrize("piece", [50, 5000])
def test_behind_a_text_as_in_one_forward_over_both(make: Make, piece: int) -> None:
    lm = make(vocab_size=259, attention_pattern=("local", "lsh", "full"))
    front, documents = (
        [Document("x", TEXT[40:400]), Document("y", TEXT)],
        [Document("a", TEXT[:90]), Document("b", TEXT)],
    )
    cache, tokens = read_behind(lm, front, piece, 2000)
    result = evaluate_stream(lm, documents, piece, behind=cache)
    assert result.behind == tokens.shape[1] == 2 + 360 + len(TEXT)
    for document, score in zip(documents, result.documents, strict=True):
        own = torch.from_numpy(join_documents([document]).part(0, 1 + len(document.text)))[None]
        both = torch.cat((tokens, own), dim=1)
        logits = lm.eval()(both).logits.detach()[0, tokens.shape[1] : -1]
        expected = torch.nn.functional.cross_entropy(logits, own[0, 1:], reduction="sum")
        assert abs(score.nll - float(expected)) < 1e-9
    assert min(result.positions) == 10
