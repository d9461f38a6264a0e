"""Which of several processes this is."""

import os


def launched() -> bool:
    """Whether torchrun, or what stands for it, started this process."""
    return "LOCAL_RANK" in os.environ


def is_main_process() -> bool:
    """True for the process that prints and saves: the only one, or the first that torchrun started."""
    return process_rank() == 0


def process_rank() -> int:
    """The number of this process among those that torchrun started."""
    return int(os.environ.get("RANK", "0")) if launched() else 0


def process_count() -> int:
    """How many processes torchrun started."""
    return int(os.environ.get("WORLD_SIZE", "1")) if launched() else 1
