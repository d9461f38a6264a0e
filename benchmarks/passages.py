"""Which of six books a passage of 4,096 bytes comes from: a classifier trained by `reformer train --task classify`.

Trained on passages from the first nine tenths of each book, at random places, measured on all passages of the last
tenths, one after another. Needs the six books.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from machine import save

from reformer.cli.quiet import quiet_libraries
from reformer.data.tokenizer import ByteTokenizer
from reformer.tasks.classify import Classify
from reformer.training.checkpoint import load_model

BOOKS = (
    "war_and_peace",
    "les_miserables",
    "don_quixote",
    "middlemarch",
    "king_james_bible",
    "crime_and_punishment",
)
BYTES, PER_BOOK = 4096, 1000
FLAGS = """--task classify --length 4097 --hidden-size 128 --num-hidden-layers 4 --num-attention-heads 2
--intermediate-size 256 --window 32 --local-window 64 --num-hashes 2 --hidden-dropout 0.1 --bf16 --batch-size 8
--steps 1500 --learning-rate 1e-3 --warmup-steps 100 --log-steps 50 --eval-steps 500 --save-steps 500"""


def write_rows(data: Path, out: Path) -> None:
    """`train.jsonl` and `test.jsonl`."""
    random = np.random.default_rng(0)
    train, test = [], []
    for book in BOOKS:
        text = (data / f"{book}.txt").read_bytes()
        cut = len(text) * 9 // 10
        train += [(text[start : start + BYTES], book) for start in random.integers(0, cut - BYTES, PER_BOOK)]
        test += [(text[start : start + BYTES], book) for start in range(cut, len(text) - BYTES + 1, BYTES)]
    for name, rows in (("train", train), ("test", test)):
        with (out / f"{name}.jsonl").open("w") as file:
            for text, book in rows:
                file.write(json.dumps({"text": text.decode("utf-8", "ignore"), "label": book}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/books"))
    parser.add_argument("--out", type=Path, default=Path("runs/passages"))
    arguments = parser.parse_args()
    quiet_libraries()
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_rows(arguments.data, arguments.out)
    command = [sys.executable, "-m", "reformer", "train", str(arguments.out / "train.jsonl"), *FLAGS.split()]
    started = time.perf_counter()
    subprocess.run([*command, "--out", str(arguments.out / "model"), "--resume", "auto"], check=True)
    seconds = time.perf_counter() - started
    model, tokenizer = load_model(arguments.out / "model"), ByteTokenizer()
    result = Classify(files=(str(arguments.out / "test.jsonl"),)).evaluate(model, tokenizer, 4097)
    for name, value in result.scores.items():
        print(f"{name:<28}{value:.4f}")
    save(
        "passages",
        [result.scores],
        passages=len(rows),
        weights=model.num_parameters(),
        seconds=seconds,
        flags=FLAGS.split(),
    )


if __name__ == "__main__":
    main()
