import pytest
import torch

from reformer.ops import capture

CPU = torch.device("cpu")


def test_the_least_recently_used_goes() -> None:
    calls: list[int] = []

    @capture.cached(2)
    def double(number: int, device: torch.device) -> int:
        calls.append(number)
        return 2 * number

    assert [double(number, CPU) for number in (1, 2, 1, 3, 1, 2)] == [2, 4, 2, 6, 2, 4]
    assert calls == [1, 2, 3, 2]


def test_a_graph_keeps_what_it_reads_and_what_it_computes_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is computed in a capture holds nothing before the first replay."""
    inside = False
    monkeypatch.setattr(capture, "capturing", lambda _: inside)
    monkeypatch.setattr(capture, "_held", [])

    @capture.cached(2)
    def zeros(length: int, device: torch.device) -> torch.Tensor:
        return torch.zeros(length, device=device)

    before = zeros(3, CPU)
    inside = True
    assert zeros(3, CPU) is before
    of_graph = zeros(4, CPU)
    assert [id(x) for x in capture._held] == [id(before), id(of_graph)]
    inside = False
    assert zeros(3, CPU) is before
    assert zeros(4, CPU) is not of_graph
