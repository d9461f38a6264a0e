"""What is watched in every step: numbers that are not finite, and a gradient that leaps."""

import math
from collections import deque
from collections.abc import Callable
from statistics import median

from reformer.errors import RunError

RECENT = 100
"""Steps whose gradients a gradient is compared with."""

ENOUGH = 20
"""Fewer of them are no measure."""


class NonFiniteLoss(RunError):
    """Loss or gradient were NaN or infinite in too many steps in a row."""


class StepGuard:
    """Says which steps are to be skipped, and speaks of those and of leaping gradients.

    `skipped` steps in a row may be skipped; from the next on it raises NonFiniteLoss. A norm above `spike` times the
    median of the last ones is said. `good` names where a run may go on from.
    """

    def __init__(self, skipped: int, spike: float, say: Callable[[str], None], good: Callable[[], str]) -> None:
        self.most, self.spike, self.say, self.good = skipped, spike, say, good
        self.total, self.row = 0, 0
        self.norms: deque[float] = deque(maxlen=RECENT)

    def skips(self, step: int, loss: float, norm: float) -> bool:
        """Whether this step is to leave the weights as they are: its worst loss, the norm of its gradient."""
        if math.isfinite(loss) and math.isfinite(norm):
            self.row = 0
            self._compare(step, norm)
            return False
        what = f"the loss is {loss}" if not math.isfinite(loss) else f"the norm of the gradient is {norm}"
        self.total, self.row = self.total + 1, self.row + 1
        if self.row > self.most:
            skipped = f" after {self.most} skipped steps" if self.most else ""
            raise NonFiniteLoss(
                f"{what} at step {step}{skipped}; {self.good()}; try a smaller learning rate, more warm-up steps or a "
                "smaller clip"
            )
        self.say(f"step {step} is skipped: {what} ({self.total} so far; {self.most} in a row are the most)")
        return True

    def _compare(self, step: int, norm: float) -> None:
        if self.spike and len(self.norms) >= ENOUGH and norm > self.spike * (usual := median(self.norms)):
            self.say(
                f"step {step}: the norm of the gradient is {norm:.3g}, that of the last steps {usual:.3g} (median)"
            )
        self.norms.append(norm)
