"""Which of several processes this is."""

import os


def is_main_process() -> bool:
    """True for the process that prints and saves: the only one, or the first that torchrun started."""
    return "LOCAL_RANK" not in os.environ or int(os.environ.get("RANK", "0")) == 0


def process_count() -> int:
    """How many processes torchrun started."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1
