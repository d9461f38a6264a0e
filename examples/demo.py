"""Train a small byte-level Reformer on the Python standard library's source, evaluate it, and let it write.

Run by `make demo`; five to eight minutes on two CPU cores.
"""

import argparse
import math
import os
import shutil
import sys
import time
from pathlib import Path

import torch

import reformer
from reformer.cli.quiet import quiet_libraries
from reformer.data.byte_model import ByteModel, lzma_bits_per_byte
from reformer.data.corpus import Document, split_held_out, standard_library
from reformer.errors import Interrupted
from reformer.inference.evaluate import Evaluation, evaluate
from reformer.inference.generate import generate_text
from reformer.inference.sampling import Sampling

LENGTH = 4096
"""Of the preset's windows, tokens."""
PROMPT = "def "
SAMPLING = Sampling(temperature=0.8, dry_multiplier=1.0, seed=0)
OCTAVES = {
    "0 to 63": (0, 6),
    "64 to 255": (6, 8),
    "256 to 1,023": (8, 10),
    "1,024 to 2,047": (10, 11),
    "2,048 on": (11, 30),
}
"""Of the bytes in front of a byte in its window, as powers of two."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder for the model")
    parser.add_argument("--steps", type=int, help="training steps, instead of the preset's")
    parser.add_argument("--held-out-bytes", type=int, default=300_000, help="held-out text to evaluate on")
    arguments = parser.parse_args()
    quiet_libraries()
    started = time.perf_counter()

    documents, held_out = split_held_out(standard_library(), 0.05)
    held_out = up_to(held_out, arguments.held_out_bytes)
    tell(f"training text: {sum(len(d.text) for d in documents):,} bytes of the Python standard library")
    steps = {"steps": arguments.steps} if arguments.steps else {}
    model = reformer.train(out=arguments.out, preset="demo", overwrite=True, say=tell, **steps)

    after = evaluate(model, held_out, LENGTH)
    torch.manual_seed(0)
    untrained = reformer.ReformerForCausalLM(model.config)
    before = evaluate(untrained, up_to(held_out, 10 * LENGTH), LENGTH)

    text = b"\n".join(document.text for document in documents)
    test = b"\n".join(document.text for document in held_out)
    rows = {
        "order-0 byte model": ByteModel(text, 0).bits_per_byte(test),
        "order-2 byte model": ByteModel(text, 2).bits_per_byte(test),
        "lzma": lzma_bits_per_byte(windows(held_out, LENGTH - 1)),
        "Reformer before training": before.bits_per_byte,
        "Reformer after training": after.bits_per_byte,
    }
    print(f"\nBits per byte on {after.bytes:,} held-out bytes, windows of {LENGTH:,} tokens, each alone:\n")
    show(rows)
    print("\nAfter training, by how many bytes of the window stand in front:\n")
    show({name: bits_of(after, *octaves) for name, octaves in OCTAVES.items()})

    longest = max(held_out, key=lambda document: len(document.text))
    for prompt, of in ((PROMPT.encode(), repr(PROMPT)), (longest.text[:1500], f"1,500 bytes of {longest.name}")):
        print(f"\n300 bytes of Python, as the model writes them behind {of}:\n")
        print(prompt.decode("utf-8", "replace").splitlines()[-1], end="")
        generate_text(model, prompt, 300, lambda text: print(text, end="", flush=True), SAMPLING)
        print()
    print(f"\nThe model is in {arguments.out}; {time.perf_counter() - started:.0f} seconds in all. Go on with:\n")
    print(f"  {command()} generate {arguments.out} --prompt 'class '")


def show(rows: dict[str, float]) -> None:
    for name, bits in rows.items():
        print(f"  {name:<26}{bits:6.3f}")


def windows(documents: list[Document], size: int) -> list[bytes]:
    """What the model is evaluated on, cut where its windows are."""
    return [document.text[i : i + size] for document in documents for i in range(0, len(document.text), size)]


def bits_of(result: Evaluation, first: int, behind: int) -> float:
    """Bits per byte where 2**first to 2**behind - 1 tokens stand in front."""
    scores = [score for octave, score in result.positions.items() if first <= octave < behind]
    tokens = sum(score.tokens for score in scores)
    return sum(score.nll for score in scores) / math.log(2) / tokens if tokens else math.nan


def command() -> str:
    """How a shell that stands here finds the command of this environment, activated or not."""
    return "reformer" if shutil.which("reformer") else os.path.relpath(Path(sys.executable).with_name("reformer"))


def up_to(documents: list[Document], size: int) -> list[Document]:
    """The first documents, `size` bytes in all."""
    kept: list[Document] = []
    for document in documents:
        room = size - sum(len(d.text) for d in kept)
        if room > 0:
            kept.append(Document(document.name, document.text[:room]))
    return kept


def tell(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main()
    except (Interrupted, KeyboardInterrupt) as stop:
        tell(f"demo: {str(stop) or 'interrupted'}")
        raise SystemExit(130) from None
