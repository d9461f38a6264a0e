"""The memory that `reformer train --dry-run` plans, beside the peak that is measured.

Each configuration trains three steps in a fresh process that has loaded and compiled everything on a small model first;
the peak is that of resident memory over what was resident then.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import save
from memory import MIB, in_fresh_process, peak_over_start

from reformer.cli.quiet import quiet_libraries
from reformer.data.corpus import Document
from reformer.data.prepare import Corpus
from reformer.settings import ModelSettings
from reformer.settings.training import TrainingSettings
from reformer.tasks.lm import LanguageModelling
from reformer.training.finetune import add_lora
from reformer.training.plan import plan
from reformer.training.run import build_model, train

CONFIGURATIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "books": (
        {"hidden_size": 256, "intermediate_size": 1536, "chunk_size_feed_forward": 2048, "loss_chunk": 2048},
        {"length": 8192},
    ),
    "books, whole pieces": ({"hidden_size": 256, "intermediate_size": 1536}, {"length": 8192}),
    "12 layers, 16,384": (
        {"hidden_size": 256, "num_hidden_layers": 12, "chunk_size_feed_forward": 2048, "loss_chunk": 2048},
        {"length": 16384},
    ),
    "width 512, batch 2": ({"hidden_size": 512, "num_attention_heads": 8}, {"length": 2048, "batch_size": 2}),
    "wide and short, adafactor": (
        {"hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 4},
        {"length": 512, "optimizer": "adafactor"},
    ),
    "8 rounds, lsh only": (
        {"hidden_size": 256, "attention_pattern": ("lsh",), "num_hashes": 8, "num_hidden_layers": 4},
        {"length": 8192},
    ),
    "not reversible": ({"hidden_size": 256, "reversible": False, "loss_chunk": 2048}, {"length": 4096}),
    "lora, 8,192": (
        {"hidden_size": 384, "num_attention_heads": 6, "chunk_size_feed_forward": 2048, "loss_chunk": 2048},
        {"length": 8192, "lora": "r=8"},
    ),
}


def measure(name: str) -> dict[str, Any]:
    quiet_libraries()
    model, training = CONFIGURATIONS[name]
    settings = ModelSettings(**model)
    run = TrainingSettings(steps=3, eval_steps=0, save_steps=0, warmup_steps=1, **training)
    corpus = Corpus.in_memory([Document("random", np.random.default_rng(0).bytes(100_000))])
    tiny = ModelSettings(**{**model, "hidden_size": 64, "num_attention_heads": 1, "intermediate_size": 64})
    short = TrainingSettings(**{**vars(run), "length": 600, "batch_size": 1})

    def go(settings: ModelSettings, training: TrainingSettings) -> None:
        with tempfile.TemporaryDirectory() as folder:
            fresh = build_model(settings, 0)
            task, out = LanguageModelling(), Path(folder) / "run"
            train(corpus, settings, training, out, task=task, model=fresh, say=lambda _: None)

    go(tiny, short)
    planned = plan(settings, run)
    peak = peak_over_start(lambda: go(settings, run))
    weights = build_model(settings, 0)
    assert planned.weights == weights.num_parameters(), (planned.weights, weights.num_parameters())
    if run.lora:
        from reformer.settings.lora import LoraSettings

        adapted = add_lora(weights, LoraSettings.parse(run.lora))
        assert planned.trained == sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    return {"configuration": name, "planned": planned.memory, "planned_bytes": planned.bytes, "peak_bytes": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="one configuration")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        torch.manual_seed(0)
        print(json.dumps(measure(arguments.one)))
        return
    rows = []
    print(f"{'configuration':28}{'planned MiB':>12}{'measured':>10}{'ratio':>7}")
    for name in CONFIGURATIONS:
        if arguments.only in (None, name):
            row = in_fresh_process(__file__, f"--one={name}")
            rows.append(row)
            ratio = row["planned_bytes"] / row["peak_bytes"]
            print(
                f"{name:28}{row['planned_bytes'] / MIB:>12,.0f}{row['peak_bytes'] / MIB:>10,.0f}{ratio:>7.2f}",
                flush=True,
            )
    if not arguments.only:
        save("plan", rows)


if __name__ == "__main__":
    main()
