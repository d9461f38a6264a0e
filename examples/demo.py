"""Train a small byte-level Reformer on the Python standard library's source, evaluate it, and let it write.

Run by `make demo`; four to nine minutes on two CPU cores.
"""

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

from reformer.cli.quiet import quiet_libraries
from reformer.data.byte_model import ByteModel
from reformer.data.corpus import Document, split_held_out, standard_library, standard_library_sources
from reformer.data.prepare import prepare
from reformer.data.settings import DataSettings
from reformer.presets import load_preset
from reformer.settings import ModelSettings
from reformer.training.evaluate import evaluate
from reformer.training.generate import Sampling, generate_text
from reformer.training.run import Interrupted, build_model, train
from reformer.training.settings import TrainingSettings

PROMPT = "def "


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder for the model")
    parser.add_argument("--steps", type=int, help="training steps, instead of the preset's")
    parser.add_argument("--held-out-bytes", type=int, default=300_000, help="held-out text to evaluate on")
    arguments = parser.parse_args()
    quiet_libraries()
    started = time.perf_counter()

    tables = load_preset("demo")
    settings = ModelSettings(**tables["model"])
    training = TrainingSettings(**tables["training"] | ({"steps": arguments.steps} if arguments.steps else {}))
    data = DataSettings()
    corpus = prepare(data, training.length, sources=standard_library_sources(), say=tell)
    documents, held_out = split_held_out(standard_library(), data.held_out)
    held_out = up_to(held_out, arguments.held_out_bytes)
    tell(f"training text: {sum(len(d.text) for d in documents):,} bytes of the Python standard library")

    model = build_model(settings, training.seed)
    before = evaluate(model, held_out, training.length)
    model = train(corpus, settings, training, arguments.out, data=data, overwrite=True, model=model, say=tell)
    after = evaluate(model, held_out, training.length)

    text = b"\n".join(document.text for document in documents)
    test = b"\n".join(document.text for document in held_out)
    rows = {
        "order-0 byte model": ByteModel(text, 0).bits_per_byte(test),
        "order-2 byte model": ByteModel(text, 2).bits_per_byte(test),
        "Reformer before training": before.bits_per_byte,
        "Reformer after training": after.bits_per_byte,
    }
    print(f"\nBits per byte on {after.bytes:,} held-out bytes, windows of {training.length:,} tokens:\n")
    for name, bits in rows.items():
        print(f"  {name:<26}{bits:6.3f}")

    print(f"\n300 bytes of Python, as the model writes them behind {PROMPT!r}:\n")
    print(PROMPT, end="")
    sampling = Sampling(temperature=0.7, top_k=50, seed=0)
    generate_text(model, PROMPT.encode(), 300, lambda text: print(text, end="", flush=True), sampling)
    print(f"\n\nThe model is in {arguments.out}; {time.perf_counter() - started:.0f} seconds in all. Go on with:\n")
    print(f"  {command()} generate {arguments.out} --prompt 'class '")


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
