"""What the host has to know of numbers on a device, fetched in one transfer: each alone would wait for the GPU."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from reformer.ops.capture import capturing
from reformer.ops.transforms import refuse_transforms

Check = Callable[[Sequence[int]], None]


def without_values(x: Tensor) -> bool:
    """Whether a tensor has a shape and nothing in it: on the meta device, or a fake one."""
    return x.is_meta or isinstance(x, FakeTensor)


class Answer:
    """The numbers that were asked for; reading them fetches whatever has been asked so far."""

    def __init__(self, questions: "Questions | None") -> None:
        self._questions, self._numbers = questions, None

    def set(self, numbers: Sequence[int]) -> None:
        """Note what was fetched."""
        self._questions, self._numbers = None, numbers  # type: ignore[assignment]

    @property
    def numbers(self) -> Sequence[int] | None:
        """None where nothing can be asked: in a graph that is traced or captured."""
        if self._questions is not None:
            self._questions.fetch()
        return self._numbers


class Questions:
    """Questions about numbers on one device, until they are fetched."""

    def __init__(self) -> None:
        self._asked: list[tuple[Tensor, Answer, Check | None]] = []

    def ask(self, numbers: Tensor, check: Check | None = None) -> Answer:
        """Ask for integers or truth values; `check` sees them as soon as they are there, and may raise."""
        if torch.compiler.is_compiling() or capturing(numbers.device) or without_values(numbers):
            return Answer(None)
        answer = Answer(self)
        self._asked.append((numbers.detach().reshape(-1), answer, check))
        return answer

    def fetch(self) -> None:
        """Wait once for all that was asked."""
        asked, self._asked = self._asked, []
        if not asked:
            return
        if any(torch._C._functorch.is_functorch_wrapped_tensor(numbers) for numbers, _, _ in asked):
            refuse_transforms("a model that has to look at its tokens and masks")
        tensors = [numbers.long() for numbers, _, _ in asked]
        values = (tensors[0] if len(tensors) == 1 else torch.cat(tensors)).tolist()
        start = 0
        for numbers, answer, _ in asked:
            answer.set(values[start : start + len(numbers)])
            start += len(numbers)
        for _, answer, check in asked:
            if check is not None:
                check(answer.numbers or ())
