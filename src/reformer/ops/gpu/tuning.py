"""A few configurations for each kernel; the fastest is found at its first launch, and kept on disk by triton.

So a kernel has to run once before it is captured in a CUDA graph.
"""

from collections.abc import Callable, Iterable
from typing import Any

import triton

from reformer.ops.environment import interpreted


def tuned(configurations: Iterable[dict[str, Any]], key: list[str]) -> Callable[[Any], Any]:
    """A decorator that tunes a kernel anew where an argument of `key` differs.

    A configuration holds what `triton.Config` takes and, in capitals, constants of the kernel. The interpreter takes
    the first.
    """
    configs = []
    for each in configurations:
        constants = {name: value for name, value in each.items() if name.isupper()}
        options = {name: value for name, value in each.items() if not name.isupper()}
        configs.append(triton.Config(constants, **options))
    return triton.autotune(configs[:1] if interpreted() else configs, key=key, cache_results=True)


def stages(*numbers: int) -> list[dict[str, Any]]:
    """Four warps and so many stages of prefetching."""
    return [{"num_warps": 4, "num_stages": number} for number in numbers]


MATTERS = ["BD", "M", "BAND", "CAUSAL", "SHARED", "DROP", "PRECISION", "size"]

CHANGING = [
    *("reach", "dropout", "length", "tiles", "blocks", "size", "first_round", "rounds", "each"),
    *("count", "groups", "shift", "before", "after"),
]
"""Numbers that differ from call to call, for which a kernel must not be compiled anew."""


def size_class(programs: int) -> int:
    """What tells a small launch from a large one when configurations are chosen."""
    return programs.bit_length() // 4
