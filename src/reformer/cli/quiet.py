"""Silence for libraries that would talk between our lines."""

import os


def quiet_libraries() -> None:
    """No progress bars and no advice from transformers: standard error belongs to the verb."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here may reach for the network
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
