"""Memory that ran out, turned into what to change."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from reformer.errors import RunError, ran_out_of_memory
from reformer.settings import ModelSettings
from reformer.settings.training import TrainingSettings
from reformer.training.plan import in_units, plan

PIECE = 1024
"""Tokens of the pieces that are proposed."""

PIECES = ("chunk_size_feed_forward", "loss_chunk")
"""Settings that take pieces."""

WORTH = 0.98
"""What is proposed brings the planned memory below this share."""


class OutOfMemory(RunError):
    """A step did not fit into memory; what was saved before stays."""


def out_of_memory(
    error: BaseException, settings: ModelSettings, training: TrainingSettings, good: str, in_windows: bool
) -> OutOfMemory | None:
    """What to raise for an error that says that memory ran out, or None for another one.

    `good` says where the run may go on from; only steps of windows are planned (`plan`).
    """
    if not ran_out_of_memory(error):
        return None
    what = f"out of memory ({' '.join(str(error).split())[:200] or 'no room'}); "
    if not in_windows:
        return OutOfMemory(
            f"{what}try a smaller --batch-tokens or --batch-size, --chunk-size-feed-forward and --loss-chunk "
            f"{PIECE}, or a shorter --length; {good}"
        )
    planned = plan(settings, training).bytes
    ways = "; ".join(f"{flags}: {in_units(size)}" for flags, size in _ways(settings, training, planned))
    return OutOfMemory(
        f"{what}a step was planned to take {in_units(planned)} beyond the libraries"
        + (f"; with {ways}" if ways else "")
        + f"; {good}"
    )


def _ways(settings: ModelSettings, training: TrainingSettings, planned: int) -> Iterator[tuple[str, int]]:
    """Flags that bring the planned bytes down, and to what."""
    rows, length, accumulation = training.batch_size, training.length, training.accumulation
    piece = min(PIECE, rows * length // 4)
    ways: list[tuple[str, ModelSettings, TrainingSettings]] = []
    pieces: dict[str, Any] = {name: piece for name in PIECES if _larger(settings, name, piece)}
    if pieces:
        flags = " ".join(f"--{name.replace('_', '-')} {piece}" for name in pieces)
        ways.append((flags, replace(settings, **pieces), training))
    if rows > 1:
        flags = f"--batch-size {rows // 2} --accumulation {2 * accumulation}"
        ways.append((flags, settings, replace(training, batch_size=rows // 2, accumulation=2 * accumulation)))
    if length >= 2 * PIECE and not training.length_schedule:
        ways.append((f"--length {length // 2}", settings, replace(training, length=length // 2)))
    if training.optimizer == "adamw" and not training.lora:
        ways.append(("--optimizer adafactor", settings, replace(training, optimizer="adafactor")))
    for flags, model, run in ways:
        if (size := plan(model, run).bytes) < WORTH * planned:
            yield flags, size


def _larger(settings: ModelSettings, name: str, piece: int) -> bool:
    return piece > 0 and (getattr(settings, name) == 0 or getattr(settings, name) > piece)
