"""What a neighbourhood rule learns in equal time: duplication, recall of key-value pairs near and far, books.

Every variant of a task trains the same model from the same seed for the same number of seconds on one thread, two
variants at a time, so a rule that is dearer per step makes fewer steps. `docs/defaults.md` holds what came of it.
"""

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

IGNORED = -100
KEYS, VALUES = 64, 16


def lsh(window: int, of_window: float, rounds: int, **more: Any) -> dict[str, Any]:
    """Buckets of `of_window` windows."""
    return {"window": window, "bucket_size": max(int(window * of_window), 1), "num_hashes": rounds} | more


def variants(window: int) -> dict[str, dict[str, Any]]:
    """All of about the same number of keys a query, except full attention."""
    w = window
    chunk = {"rule": "chunk", "chunk_length": w, "num_hashes": 4}
    return {
        f"w {w}, c = 2w, 4 rounds": lsh(w, 2, 4),
        f"w {w}, c = w, 4 rounds": lsh(w, 1, 4),
        f"w {w}, c = w/2, 4 rounds": lsh(w, 0.5, 4),
        f"w {w // 2}, c = w, 8 rounds": lsh(w // 2, 1, 8),
        f"w {2 * w}, c = w, 2 rounds": lsh(2 * w, 1, 2),
        f"chunks of {w}, 4 rounds": chunk,
        "full attention": {"attention_pattern": ("local", "full")},
    }


def recall(batch: int, length: int, rng: Any, nearest: int) -> tuple[Any, Any, Any]:
    """Slots of a key and its value; a new key with probability 1/4, else one at least `nearest` tokens back.

    The third array tells how many tokens back each wanted value stands.
    """
    import numpy as np

    tokens = np.zeros((batch, length), np.int64)
    labels = np.full((batch, length), IGNORED, np.int64)
    distance = np.zeros((batch, length), np.int64)
    for row in range(batch):
        names = rng.permutation(KEYS)
        values, last, known = rng.integers(0, VALUES, KEYS), np.zeros(KEYS, np.int64), 0
        for slot in range(length // 2):
            far = [i for i in range(known) if 2 * slot - last[i] >= nearest]
            if not far or (rng.random() < 0.25 and known < KEYS):
                i, known = known, known + 1
            else:
                i = far[rng.integers(len(far))]
                labels[row, 2 * slot + 1] = KEYS + values[i]
                distance[row, 2 * slot + 1] = 2 * slot - last[i]
            last[i] = 2 * slot
            tokens[row, 2 * slot : 2 * slot + 2] = names[i], KEYS + values[i]
    return tokens, labels, distance


def duplication(batch: int, length: int, rng: Any) -> tuple[Any, Any, Any]:
    """0 w 0 w, of which the second w is to be predicted (Kitaev et al. 2020, section 5)."""
    import numpy as np

    half = length // 2
    word = rng.integers(1, 128, (batch, half - 1))
    tokens = np.concatenate([np.zeros((batch, 1), np.int64), word] * 2, axis=1)
    labels = tokens.copy()
    labels[:, : half + 1] = IGNORED
    return tokens, labels, np.full_like(labels, half)


def books(folder: Path, batch: int, length: int, rng: Any, held_out: bool) -> tuple[Any, Any, Any]:
    import numpy as np

    name = "crime_and_punishment.txt" if held_out else "war_and_peace.txt"
    text = np.fromfile(folder / "books" / name, np.uint8)
    starts = rng.integers(0, len(text) - length, batch)
    tokens = np.stack([text[s : s + length] for s in starts]).astype(np.int64) + 3
    return tokens, tokens, np.zeros_like(tokens)


def batches(task: str, folder: Path) -> tuple[Callable[..., tuple[Any, Any, Any]], dict[str, Any]]:
    """A maker of batches from (rng, held_out), and the model's and the window's size."""
    small = {"window": 32, "hidden_size": 128, "vocab_size": max(KEYS + VALUES, 128), "local_window": 2}
    if task == "duplication":
        return (lambda rng, held_out: duplication(8, 256, rng)), small
    if task == "recall reach":  # trained at 256 tokens, measured at 1,024
        return (lambda rng, held_out: recall(2, 1024, rng, 0) if held_out else recall(8, 256, rng, 0)), small
    if task == "recall long":
        return (lambda rng, held_out: recall(2, 1024, rng, 0)), small
    if task.startswith("recall"):
        nearest = 64 if task == "recall far" else 0
        return (lambda rng, held_out: recall(8, 256, rng, nearest)), small
    size = {"window": 64, "hidden_size": 128, "vocab_size": 259, "local_window": 64}
    return (lambda rng, held_out: books(folder, 1, 4096, rng, held_out)), size


def train(task: str, variant: str, seconds: float, seed: int, folder: Path) -> dict[str, Any]:
    import numpy as np
    import torch

    import reformer

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    make, size = batches(task, folder)
    options = {"attention_pattern": ("local", "lsh")} | variants(size["window"])[variant]
    config = reformer.ReformerConfig(
        **{key: value for key, value in size.items() if key != "window"} | options,
        num_hidden_layers=4 if task == "books" else 2,
        num_attention_heads=4,
        max_position_embeddings={"books": 4096, "recall long": 1024}.get(task, 256),
    )
    model = reformer.ReformerForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01, betas=(0.9, 0.98))
    rng, test = np.random.default_rng(seed), np.random.default_rng(10**6)
    held_out = [tuple(map(torch.from_numpy, make(test, True))) for _ in range(16)]
    steps, spent = 0, 0.0
    model(held_out[0][0], labels=held_out[0][1]).loss.backward()  # compiles and loads
    while spent < seconds:
        tokens, labels, _ = map(torch.from_numpy, make(rng, False))
        started = time.process_time()
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1.0, (steps + 1) / 50) * (0.1 + 0.9 * (1 - spent / seconds))
        optimizer.zero_grad()
        model(tokens, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        spent += time.process_time() - started
        steps += 1
    return {"steps": steps, **score(model.eval(), held_out)}


def score(model: Any, held_out: list[Any]) -> dict[str, float]:
    """Accuracy and bits over all wanted tokens, and accuracy by how far back their sources stand."""
    import torch

    right, loss, distance = [], [], []
    with torch.no_grad():
        for tokens, labels, away in held_out:
            logits, aim = model(tokens).logits[:, :-1], labels[:, 1:]
            wanted = aim != IGNORED
            right.append((logits.argmax(-1) == aim)[wanted].float())
            loss.append(torch.nn.functional.cross_entropy(logits[wanted], aim[wanted], reduction="none"))
            distance.append(away[:, 1:][wanted])
    hits, away = torch.cat(right), torch.cat(distance)
    by_distance = {
        f"{low} to {high} back": float(hits[(away >= low) & (away < high)].mean())
        for low, high in ((1, 64), (64, 256), (256, 1024))
        if ((away >= low) & (away < high)).any()
    }
    return {"accuracy": float(hits.mean()), "bits": float(torch.cat(loss).mean()) / math.log(2), **by_distance}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--tasks", nargs="+", default=["duplication", "recall", "recall reach", "recall long", "recall far", "books"]
    )
    parser.add_argument("--seconds", type=float, default=60, help="of training, for each variant")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with books/")
    parser.add_argument("--name", default="quality", help="of the result file")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        task, variant, seed = json.loads(arguments.one)
        print(json.dumps(train(task, variant, arguments.seconds, seed, arguments.data)))
        return
    from machine import save

    rows = []
    for task in arguments.tasks:
        names = list(variants(batches(task, arguments.data)[1]["window"]))
        jobs = [(task, name, seed) for name in names for seed in range(arguments.seeds)]
        for pair in (jobs[i : i + 2] for i in range(0, len(jobs), 2)):
            rows += run_together(pair, arguments)
            save(arguments.name, rows, seconds=arguments.seconds, seeds=arguments.seeds)


def run_together(jobs: list[tuple[str, str, int]], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    common = [f"--seconds={arguments.seconds}", f"--data={arguments.data}"]
    commands = [[sys.executable, __file__, f"--one={json.dumps(job)}", *common] for job in jobs]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    rows = []
    for (task, variant, seed), process in zip(jobs, running, strict=True):
        found, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"{task}, {variant}, seed {seed} failed")
        row = {"task": task, "variant": variant, "seed": seed, **json.loads(found.splitlines()[-1])}
        rows.append(row)
        print(
            f"{task:12} {variant:28} seed {seed}{row['steps']:7} steps   accuracy {row['accuracy']:.3f}   "
            f"{row['bits']:.3f} bits   "
            + ", ".join(f"{key} {value:.3f}" for key, value in row.items() if key.endswith("back")),
            flush=True,
        )
    return rows


if __name__ == "__main__":
    main()
