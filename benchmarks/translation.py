"""English to German on Multi30k, from scratch: Reformers of LSH and local attention beside plain Transformers.

Equal widths, layers, steps and text; a plain Transformer has three projections where LSH attention has two. BLEU by
sacrebleu on `test_2016_flickr`, beam 5. Long: a run goes on where it stopped, and the table is of the runs there are.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch
from machine import describe, save

from reformer.cli.quiet import quiet_libraries
from reformer.data.tokenizer import tokenizer_of
from reformer.tasks.translate import Translate
from reformer.training.checkpoint import load_model

COMMON = """--task translate --tokenizer bpe:6000 --held-out 0 --length 256 --tie-word-embeddings
--position-embedding sinusoidal --hidden-size 256 --num-hidden-layers 3 --num-attention-heads 4 --intermediate-size 512
--stream-merge mean --hidden-dropout 0.2 --embedding-dropout 0.1 --label-smoothing 0.1 --batch-tokens 3000 --steps 4500
--learning-rate 2e-3 --schedule linear --warmup-steps 400 --weight-decay 0.01 --log-steps 100 --eval-steps 500
--save-steps 500"""
KINDS = {
    "lsh": "--attention-pattern local lsh",
    "plain": "--attention-pattern full --residual single --no-reversible",
}


def run(kind: str, seed: int, bf16: bool, data: Path, out: Path) -> None:
    """Train one model and measure it, unless that was done."""
    folder, result = out / f"{kind}-{seed}", out / f"{kind}-{seed}.json"
    if result.exists():
        return
    sides = {"source": "en", "target": "de"}
    files = [f"--{side}={data}/train.{language}.gz" for side, language in sides.items()]
    files += [f"--held-out-{side}={data}/val.{language}.gz" for side, language in sides.items()]
    command = [sys.executable, "-m", "reformer", "train", *COMMON.split(), *KINDS[kind].split(), *files]
    command += ["--bf16"] if bf16 else []
    started = time.perf_counter()
    with (out / f"{kind}-{seed}.log").open("a") as log:
        subprocess.run(
            [*command, "--seed", str(seed), "--out", str(folder), "--resume", "auto"], stderr=log, check=True
        )
    seconds = time.perf_counter() - started
    model, tokenizer = load_model(folder), tokenizer_of(folder)
    task = Translate(source=(f"{data}/test_2016_flickr.en.gz",), target=(f"{data}/test_2016_flickr.de.gz",))
    model.to(torch.accelerator.current_accelerator() or "cpu")
    found = task.evaluate(model, tokenizer, 256, batch_size=100)
    row = {
        "kind": kind,
        "seed": seed,
        "bf16": bf16,
        "weights": model.num_parameters(),
        **found.scores,
        "seconds": seconds,
        **{key: value for key, value in describe().items() if key in ("date", "machine", "gpu")},
    }
    result.write_text(json.dumps({**row, "notes": found.notes}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/multi30k"))
    parser.add_argument("--out", type=Path, default=Path("runs/translation"))
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--bf16", action="store_true", help="slow on processors that have no bf16 products")
    arguments = parser.parse_args()
    quiet_libraries()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for seed in arguments.seeds:
        for kind in arguments.kinds:
            run(kind, seed, arguments.bf16, arguments.data, arguments.out)
    rows = [json.loads(path.read_text()) for path in sorted(arguments.out.glob("*.json"))]
    for row in rows:
        print(f"{row['kind']:<6} seed {row['seed']}  {row['weights']:,} weights  BLEU {row['BLEU']:.2f}")
    save("translation", rows, settings=COMMON.split(), kinds=KINDS)


if __name__ == "__main__":
    main()
