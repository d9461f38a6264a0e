"""Questions about facts in 4,096 bytes: `reformer train --task qa`.

A context is a row of made-up words with facts among them, `NAME=number;`, at random places; a question is one of the
names, `NAME=`. Names are made anew for each row, so nothing can be learned by heart: the name has to be found, wherever
it is. Trained in two runs, on many short contexts, then from there on contexts of up to 4,096 bytes; measured on 4,096.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path

from machine import save

from reformer.cli.quiet import quiet_libraries
from reformer.data.byte_tokens import VOCABULARY
from reformer.data.tokenizer import ByteTokenizer
from reformer.tasks.qa import QuestionAnswering
from reformer.training.checkpoint import load_model

BYTES, TEST_ROWS = 4096, 400
CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"
COMMON = f"""--task qa --length 4200 --vocab-size {VOCABULARY} --hidden-size 128 --num-hidden-layers 3
--attention-pattern local lsh local --num-attention-heads 4 --intermediate-size 256 --window 32 --local-window 16
--num-hashes 4 --batch-tokens 4096 --log-steps 100 --eval-steps 500 --save-steps 500 --held-out 0.01"""
RUNS = {
    "short": "--steps 600 --learning-rate 2e-3 --schedule linear --warmup-steps 100",
    "long": "--steps 600 --learning-rate 1e-3 --schedule linear --warmup-steps 50",
}


def word(draw: random.Random, syllables: int) -> str:
    return "".join(draw.choice(CONSONANTS) + draw.choice(VOWELS) for _ in range(syllables))


def row(draw: random.Random, size: int) -> dict[str, str]:
    """A context of about `size` bytes, one fact in some 128 bytes, at least four."""
    names = list(dict.fromkeys(word(draw, 3).upper() for _ in range(max(size // 128, 4))))
    values = {name: str(draw.randint(100, 999)) for name in names}
    words = [f"{name}={value};" for name, value in values.items()]
    left = size - sum(len(item) + 1 for item in words)
    while left > 0:
        words.append(word(draw, draw.randint(1, 4)))
        left -= len(words[-1]) + 1
    draw.shuffle(words)
    asked = draw.choice(names)
    return {"context": " ".join(words), "question": f"{asked}=", "answer": values[asked]}


def write_rows(path: Path, sizes: list[int], seed: int) -> None:
    """Questions whose answers stand once in their contexts."""
    draw = random.Random(seed)
    with path.open("w") as file:
        for size in sizes:
            found = row(draw, size)
            start = found["context"].index(found["question"] + found["answer"]) + len(found["question"])
            file.write(json.dumps({**found, "answer_start": start}) + "\n")


def write_texts(out: Path) -> None:
    draw = random.Random(0)
    write_rows(out / "short.jsonl", [draw.randint(48, 144) for _ in range(20_000)], 1)
    write_rows(out / "long.jsonl", [int(2 ** (7 + 5 * draw.random())) for _ in range(6_000)], 2)
    write_rows(out / "test.jsonl", [BYTES] * TEST_ROWS, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/planted_facts"))
    out = parser.parse_args().out
    quiet_libraries()
    out.mkdir(parents=True, exist_ok=True)
    write_texts(out)
    started, init = time.perf_counter(), []
    for name, flags in RUNS.items():
        command = [sys.executable, "-m", "reformer", "train", str(out / f"{name}.jsonl"), *COMMON.split()]
        subprocess.run([*command, *flags.split(), *init, "--out", str(out / name), "--resume", "auto"], check=True)
        init = ["--init", str(out / name)]
    seconds = time.perf_counter() - started
    model, tokenizer = load_model(out / "long"), ByteTokenizer()
    result = QuestionAnswering(files=(str(out / "test.jsonl"),)).evaluate(model, tokenizer, 4200)
    print(", ".join(f"{name} {value:.4f}" for name, value in result.scores.items()))
    save(
        "planted_facts",
        [result.scores],
        weights=model.num_parameters(),
        seconds=seconds,
        flags=COMMON.split(),
        runs=RUNS,
    )


if __name__ == "__main__":
    main()
