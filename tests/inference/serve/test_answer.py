"""The text of an answer: stops, characters of several tokens, log-probabilities beside it."""

import itertools

import pytest
import torch

from reformer.data.tokenizer import ByteTokenizer
from reformer.inference.sampling import Chooser, Sampling
from reformer.inference.serve.answer import Answer, Piece, spelled

BYTES = ByteTokenizer()


def written(
    text: str | bytes, *stop: str, longest: int = 1000, end: bool = True, logprobs: bool = False
) -> list[Piece]:
    """The pieces of an answer whose tokens are those of a text."""
    data = text.encode() if isinstance(text, str) else text
    tokens = BYTES.encode([data])[0].tolist() + [BYTES.end] * end
    chooser = Chooser(Sampling(temperature=0), (), 2, torch.device("cpu"))
    answer = Answer(3, [1, 70], longest, chooser, stop, BYTES, logprobs=2 if logprobs else None, offset=10)
    pieces = []
    for token in tokens:
        pieces.append(answer.take(torch.nn.functional.one_hot(torch.tensor(token), 259) * 5.0))
        if pieces[-1].finish:
            break
    return pieces


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def test_a_text_comes_as_it_is_written() -> None:
    pieces = written("to be")
    assert [piece.text for piece in pieces] == ["t", "o", " ", "b", "e", ""]
    assert [piece.finish for piece in pieces] == [None] * 5 + ["stop"]
    assert pieces[-1].tokens == 6
    assert {piece.index for piece in pieces} == {3}


def test_an_answer_has_its_length() -> None:
    pieces = written("to be or not", longest=4, end=False)
    assert text_of(pieces) == "to b"
    assert (pieces[-1].finish, pieces[-1].tokens) == ("length", 4)


def test_characters_are_whole() -> None:
    assert [piece.text for piece in written("é€")] == ["", "é", "", "", "€", ""]
    assert text_of(written(b"a\xffb\xe2\x82")) == "a\ufffdb\ufffd"


@pytest.mark.parametrize(
    ("text", "stops", "kept"),
    [
        ("one. two", ["."], "one"),
        ("one\n\ntwo", ["\n\n"], "one"),
        ("aab aaab", ["aaab"], "aab "),
        ("ababac", ["abac"], "ab"),
        ("xyz", ["z", "yz"], "x"),
        ("é€ø", ["€"], "é"),
        ("stop at sto", ["stop!"], "stop at sto"),
        (".", ["."], ""),
        ("", ["x"], ""),
    ],
)
def test_a_stop_ends_an_answer_and_no_part_of_it_is_shown(text: str, stops: list[str], kept: str) -> None:
    pieces = written(text, *stops)
    assert text_of(pieces) == kept
    assert [piece.finish for piece in pieces if piece.finish] == ["stop"]


def test_what_may_be_a_stop_is_withheld_and_nothing_else() -> None:
    assert [piece.text for piece in written("abxab", "abc")] == ["", "", "abx", "", "", "ab"]


def test_a_stop_at_the_last_token() -> None:
    assert written("ab.", ".", longest=3, end=False)[-1].finish == "stop"
    assert text_of(written("abc", "cd", longest=3, end=False)) == "abc"


@pytest.mark.parametrize("stops", [(), ("abc",), ("é!",)])
def test_log_probabilities_go_with_their_text(stops: tuple[str, ...]) -> None:
    text = "abaé€b"
    pieces = written(text, *stops, logprobs=True)
    told = list(itertools.chain(*(piece.logprobs for piece in pieces)))
    assert len(told) == len(text.encode()) + 1  # and the end
    assert [one.offset for one in told] == [10, 11, 12, 13, 13, 14, 14, 14, 15, 16]
    assert told[-1].token == "token_id:1"
    assert all(one.logprob == max(one.top.values()) for one in told)
    shown = 10
    for piece in pieces:
        assert all(one.offset <= shown + len(piece.text) for one in piece.logprobs)
        shown += len(piece.text)
    cut = list(itertools.chain(*(piece.logprobs for piece in written("ab.c", ".", logprobs=True))))
    assert [one.token for one in cut] == ["a", "b"]


def test_how_tokens_are_spelled() -> None:
    assert [spelled(BYTES, token) for token in (3 + 97, 3 + 0xE2, 0)] == ["a", "bytes:\\xe2", "token_id:0"]
