"""Questions about facts in 4,096 bytes: `reformer train --task qa`.

A context is a row of made-up words with facts among them, `name=number;`, at random places; a question is one of the
names. Names are made anew for each row, so nothing can be learned by heart: the name has to be found, wherever it is.
Contexts to train on have from 128 to 4,096 bytes, those to measure on 4,096.
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
from reformer.data.question import encode_questions, read_questions
from reformer.data.tokens import ByteTokens
from reformer.training.checkpoint import load_model
from reformer.training.task_evaluation import evaluate_task

BYTES, ROWS, TEST_ROWS = 4096, 12_000, 200
CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"
FLAGS = f"""--task qa --length 4200 --vocab-size {VOCABULARY} --hidden-size 128 --num-hidden-layers 4
--num-attention-heads 4 --intermediate-size 256 --window 32 --local-window 16 --num-hashes 4 --bf16
--batch-tokens 16384 --steps 3000 --learning-rate 2e-3 --schedule linear --warmup-steps 200 --log-steps 100
--eval-steps 500 --save-steps 500 --held-out 0.01"""


def word(draw: random.Random, syllables: int) -> str:
    return "".join(draw.choice(CONSONANTS) + draw.choice(VOWELS) for _ in range(syllables))


def row(draw: random.Random, size: int) -> dict[str, str]:
    """A context of about `size` bytes, one fact in some 128 bytes, at least two."""
    names = list({word(draw, 3) for _ in range(max(size // 128, 2))})
    facts = {name: str(draw.randint(100, 999)) for name in names}
    words = [f"{name}={value};" for name, value in facts.items()]
    left = size - sum(len(item) + 1 for item in words)
    while left > 0:
        words.append(word(draw, draw.randint(1, 4)))
        left -= len(words[-1]) + 1
    draw.shuffle(words)
    asked = draw.choice(names)
    return {"context": " ".join(words), "question": asked, "answer": facts[asked]}


def write_rows(path: Path, sizes: list[int], seed: int) -> None:
    """Questions whose answers stand once in their contexts."""
    draw = random.Random(seed)
    with path.open("w") as file:
        for size in sizes:
            found = row(draw, size)
            start = found["context"].index(f"{found['question']}={found['answer']};") + len(found["question"]) + 1
            file.write(json.dumps({**found, "answer_start": start}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/planted_facts"))
    arguments = parser.parse_args()
    quiet_libraries()
    arguments.out.mkdir(parents=True, exist_ok=True)
    draw = random.Random(0)
    train, test = arguments.out / "train.jsonl", arguments.out / "test.jsonl"
    write_rows(train, [int(2 ** draw.uniform(7, 12)) for _ in range(ROWS)], 1)
    write_rows(test, [BYTES] * TEST_ROWS, 2)
    command = [sys.executable, "-m", "reformer", "train", str(train), *FLAGS.split()]
    started = time.perf_counter()
    subprocess.run([*command, "--out", str(arguments.out / "model"), "--resume", "auto"], check=True)
    seconds = time.perf_counter() - started
    model, tokens = load_model(arguments.out / "model"), ByteTokens()
    examples = encode_questions(read_questions([str(test)]), tokens, 4200)
    result = evaluate_task("qa", model, examples, tokens)
    print(", ".join(f"{name} {value:.4f}" for name, value in result.scores.items()))
    save("planted_facts", [result.scores], weights=model.num_parameters(), seconds=seconds, flags=FLAGS.split())


if __name__ == "__main__":
    main()
