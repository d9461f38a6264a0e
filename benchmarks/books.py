"""An hour of training on five books, and what the model makes of a sixth: bits per byte, and loss against position.

Half of preset `small`'s weights at its length (the preset `books`), two cores. STATED was written down before the run.
Windows of 8,192 bytes come in its last 900 of 6,400 steps only: 1.991 bits per byte on the whole book, and nothing
gained from windows beyond 1,024. Two other ways to let it learn from far: 900 steps more at that length, from a third
of the learning rate, made 1.9891 / 1.9885 / 1.9885 / 1.9881 of windows of 1,024 / 2,048 / 4,096 / 8,192; a run of 43
minutes with windows of 8,192 in its last 1,000 of 2,500 steps, most of its text, 2.0893, falling up to 2,048
(`books_long_windows.json`: --flags "--bf16 --length-schedule 1024:1500 --steps 2500 --schedule linear
--eval-steps 1250 --save-steps 1250" --name books_long_windows). Long: the run goes on where it stopped.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from machine import RESULTS, save

from reformer.cli.quiet import quiet_libraries
from reformer.data.corpus import Document, read_documents
from reformer.inference.evaluate import Evaluation, evaluate
from reformer.report.positions import plot_positions
from reformer.training.checkpoint import load_checkpoint

STATED = 2.10
"""Bits per byte on the whole of the held-out book, windows of 8,192 bytes."""

BOOKS = ("war_and_peace", "les_miserables", "don_quixote", "middlemarch", "king_james_bible")
HELD_OUT = "crime_and_punishment"
LENGTH = 8192
WINDOWS = (256, 512, 1024, 2048, 4096, 8192)


def scores(result: Evaluation) -> dict[str, float]:
    return {name: getattr(result, name) for name in ("loss", "bits_per_byte", "accuracy", "bytes")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/books"))
    parser.add_argument("--out", type=Path, default=Path("runs/books"))
    parser.add_argument("--flags", default="--bf16", help="more flags for reformer train")
    parser.add_argument("--name", default="books", help="of the results")
    parser.add_argument("--log", type=Path, default=Path("runs/books.log"))
    arguments = parser.parse_args()
    quiet_libraries()
    arguments.log.parent.mkdir(parents=True, exist_ok=True)
    train = [sys.executable, "-m", "reformer", "train", *(str(arguments.data / f"{book}.txt") for book in BOOKS)]
    train += [
        "--held-out-files",
        str(arguments.data / f"{HELD_OUT}.txt"),
        "--preset",
        "books",
        *arguments.flags.split(),
    ]
    train += ["--out", str(arguments.out), "--resume", "auto"]
    started = time.perf_counter()
    with arguments.log.open("a") as log:
        subprocess.run(train, stderr=log, check=True)
    seconds = time.perf_counter() - started

    model, documents = load_checkpoint(arguments.out), read_documents([arguments.data / f"{HELD_OUT}.txt"])
    result = evaluate(model, documents, LENGTH)
    extract = [Document(HELD_OUT, documents[0].text[300_000:360_000])]
    by_window = {n: evaluate(model, extract, n, stride=n // 8).bits_per_byte for n in WINDOWS}
    rows = [
        {"from": 1 << k, "tokens": score.tokens, "loss": score.loss} for k, score in sorted(result.positions.items())
    ]
    print(f"{seconds:,.0f} s of training; stated {STATED} bits per byte, found {result.bits_per_byte:.4f}")
    for row in rows:
        print(f"{row['from']:>7,} bytes of context or more{row['tokens']:>11,} bytes{row['loss']:9.4f} nats")
    for window, bits in by_window.items():
        print(f"the same 60,000 bytes, windows of {window:,}, stride an eighth: {bits:.4f} bits per byte")
    plot_positions({"books": result}, RESULTS / f"{arguments.name}_positions.png")
    run = json.loads((arguments.out / "config.json").read_text())
    save(
        arguments.name,
        rows,
        stated=STATED,
        seconds=seconds,
        weights=model.num_parameters(),
        whole=scores(result),
        by_window=by_window,
        layers=run["num_hidden_layers"],
    )


if __name__ == "__main__":
    main()
