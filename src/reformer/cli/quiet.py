"""Silence for libraries that would talk between our lines."""

import os
import warnings


def quiet_libraries(offline: bool = True) -> None:
    """No progress bars and no advice from libraries: standard error belongs to the verb."""
    if offline:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing may reach for the network unless it is asked to
    warnings.filterwarnings("ignore", "FSDP2-wrapped module")  # about operations in place, of which there are none
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
