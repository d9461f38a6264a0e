"""Does a model copy itself? The share of its bytes that lie in runs, beside that of held-out text.

A run is a period of 1 to 16 bytes, repeated at least 6 times and at least 12 bytes long; most in source are blanks in
front of a line, so runs of other bytes are counted apart. Twenty samples of 1,000 bytes
behind `def ` and twenty behind 1,500 bytes of held-out source of the standard library, for each way of sampling.

    python benchmarks/loops.py runs/demo --read 10
"""

import argparse
from pathlib import Path

import numpy as np
from machine import save

from reformer.cli.quiet import quiet_libraries
from reformer.data.corpus import split_held_out, standard_library
from reformer.inference.generate import generate_text
from reformer.inference.sampling import Sampling
from reformer.models import ReformerForCausalLM
from reformer.tasks.lm import LanguageModelling
from reformer.training.checkpoint import load_model, need_language_model

PERIODS, TIMES, LONG = range(1, 17), 6, 12
SAMPLES, NEW, PROMPT = 20, 1000, 1500
WAYS: dict[str, dict[str, float]] = {
    "temperature 1": {},
    "temperature .8": {"temperature": 0.8},
    "temperature .7, the 50 likeliest": {"temperature": 0.7, "top_k": 50},
    "temperature .8, dry 1": {"temperature": 0.8, "dry_multiplier": 1.0},
    "temperature .9, dry 1": {"temperature": 0.9, "dry_multiplier": 1.0},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of a model of bytes")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--read", type=int, default=0, help="samples of each kind to print")
    arguments = parser.parse_args()
    quiet_libraries()
    model = need_language_model(load_model(arguments.model), arguments.model)
    _, documents = split_held_out(standard_library(), LanguageModelling().held_out)
    text = b"\n".join(document.text for document in documents)
    own = {"share": round(share_in_runs(text), 4), "not of blanks": round(share_in_runs(text, blanks=False), 4)}
    print(f"held-out text: {own}")
    prompts = {"def ": [b"def "] * arguments.samples, "source": sources([d.text for d in documents], arguments.samples)}
    rows = []
    for way in arguments.ways:
        for kind, texts in prompts.items():
            samples = [sample(model, prompt, seed, WAYS[way]) for seed, prompt in enumerate(texts)]
            row: dict[str, str | float] = {"sampling": way, "prompt": kind}
            for name, blanks in (("share", True), ("not of blanks", False)):
                row[name] = round(float(np.mean([share_in_runs(text, blanks) for text in samples])), 4)
            rows.append(row)
            print(row, flush=True)
            for text in samples[: arguments.read]:
                print(f"\n{'-' * 120}\n{text.decode('utf-8', 'replace')}")
    save("loops", rows, held_out=own)


def sources(texts: list[bytes], count: int) -> list[bytes]:
    """Starts of held-out files that go on behind it, spread over them."""
    long = [text for text in texts if len(text) >= PROMPT + NEW]
    return [long[i % len(long)][:PROMPT] for i in np.linspace(0, len(long) - 1, count).round().astype(int)]


def sample(model: ReformerForCausalLM, prompt: bytes, seed: int, way: dict[str, float]) -> bytes:
    written: list[str] = []
    generate_text(model, prompt, NEW, written.append, Sampling(seed=seed, **way))  # type: ignore[arg-type]
    return "".join(written).encode()


def share_in_runs(text: bytes, blanks: bool = True) -> float:
    """Of all bytes, those in runs; without `blanks`, in runs of other bytes than spaces."""
    data, inside = np.frombuffer(text, np.uint8), np.zeros(len(text), bool)
    for period in PERIODS:
        same = np.concatenate(([False], data[period:] == data[:-period], [False])).astype(np.int8)
        starts, ends = np.flatnonzero(np.diff(same) == 1), np.flatnonzero(np.diff(same) == -1)
        for start, end in zip(starts, ends + period, strict=True):  # bytes up to `end - period` stand a period on too
            if end - start >= max(TIMES * period, LONG) and (blanks or text[start:end].strip(b" ")):
                inside[start:end] = True
    return float(inside.mean()) if len(text) else 0.0


if __name__ == "__main__":
    main()
