"""A context that pays: bits per byte of the same blocks behind more and more of what stands in front of them.

Models trained at 16,384 tokens or less (the presets `long` and `demo`, two hours and a quarter of one, on the standard
library and three books) predict 64 blocks of 4,096 bytes of what they have not seen: the sources of torch and
transformers as they are installed, file behind file in the order of their paths, and a series of three other books.
Blocks stand in groups of eight, one behind the other, and each group is a row; behind more than 32,768 bytes a cache is
read for a part of a group, so that a block there has up to an eighth more in front of it than its column says.
Compressors have the same bytes: size of both less size of what is in front.

    python -m worth.context --text ../runs/text
    reformer train ../runs/text --preset long --out ../runs/long
    reformer train ../runs/text --preset long --attention-pattern local --out ../runs/long-local
    python -m worth.context --reader LSH "local alone"  # and so with the preset `demo`
    python -m worth.context --small
"""

import lzma
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from learning import joined, library
from machine import RESULTS
from resumable import Row

import reformer
from reformer.data.corpus import Document, read_documents
from reformer.inference.evaluate import evaluating, read_on
from reformer.models.cache import ReformerCache
from worth.cells import run_cells
from worth.language import build
from worth.loop import Batch, fit

OUT = RESULTS / "worth_context.json"
DATA = Path("../../shared/data")
CONTEXTS = (*(1 << i for i in range(10, 17, 2)), 1 << 17, 1 << 18, 1 << 20)
BLOCK, GROUP, GROUPS, PIECE = 4096, 8, 8, 8192
TRAINED_BOOKS = ("war_and_peace", "les_miserables", "king_james_bible")
SERIES = ("crime_and_punishment", "middlemarch", "don_quixote")
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "LSH": ("long", {}),
    "LSH, 256 buckets": ("long", {"num_buckets": 256}),
    "local alone": ("long-local", {}),
    "LSH, preset demo": ("demo", {}),
    "LSH, preset demo, 1,024 buckets": ("demo", {"num_buckets": 1024}),
    "local alone, preset demo": ("demo-local", {}),
}
"""The run of each, and what is changed in it."""
Size = Callable[[bytes], int]


def training_text(data: Path) -> list[Document]:
    """The standard library but a twentieth of its files, as in `learning.texts`, and books."""
    files = library()
    order = np.random.default_rng(1).permutation(len(files))
    books = [Document(f"{name}.txt", (data / "books" / f"{name}.txt").read_bytes()) for name in TRAINED_BOOKS]
    return [files[i] for i in sorted(order[len(files) // 20 :])] + books


def text(corpus: str, data: Path) -> bytes:
    """What is predicted, and what stands in front of it."""
    if corpus == "books":
        return b"\n".join(one.text for one in read_documents([data / "books" / f"{name}.txt" for name in SERIES]))
    import transformers

    roots = [Path(str(package.__file__)).parent for package in (torch, transformers)]
    return b"\n".join(path.read_bytes() for root in roots for path in sorted(root.rglob("*.py")))


def start_of(group: int, size: int, longest: int) -> int:
    """Where a group of blocks begins: all at equal distances, behind the longest context."""
    return int(np.linspace(longest, size - GROUP * BLOCK, GROUPS)[group])


def parts(start: int, context: int) -> Iterator[tuple[int, int]]:
    """What each cache of a group is read for: (first block's start, last block's end)."""
    together = min(GROUP, max(1, context >> 15))
    for first in range(0, GROUP, together):
        yield start + first * BLOCK, start + (first + together) * BLOCK


@torch.no_grad()
def predict(model: Any, stream: bytes, context: int, begin: int, end: int) -> list[float]:
    """Bits a byte of the blocks from `begin` to `end`, behind `context` bytes."""
    read = np.frombuffer(stream[begin - context : end], np.uint8).astype(np.int64)
    tokens = torch.from_numpy(read)[None] + 3
    cache = ReformerCache(model.config, room=tokens.shape[1])
    with evaluating(model):
        read_on(model, cache, tokens[:, : context - 1], PIECE)
        found = []
        for at in range(context - 1, tokens.shape[1] - 1, BLOCK):
            part = tokens[:, at : at + BLOCK + 1]
            nll = model.score(part[:, :-1], part[:, 1:], past_key_values=cache).nll
            found.append(float(nll.double().mean()) / np.log(2))
    return found


def compressors() -> dict[str, Size]:
    """Sizes in bytes; each at the most that it can do."""
    import pyppmd
    import zstandard

    def zstd(data: bytes) -> int:
        known = zstandard.ZstdCompressionParameters.from_level(22, window_log=27, enable_ldm=True)
        return len(zstandard.ZstdCompressor(compression_params=known).compress(data))

    def ppmd(data: bytes) -> int:
        packer = pyppmd.Ppmd7Encoder(max_order=64, mem_size=1 << 30)
        return len(packer.encode(data)) + len(packer.flush())

    return {"xz -9e": lambda data: len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)), "zstd": zstd, "PPMd": ppmd}


READERS = (*MODELS, "xz -9e", "zstd", "PPMd")


def compressed(size: Size, stream: bytes, context: int, begin: int, end: int) -> list[float]:
    """Bits a byte of blocks, by sizes of what stands in front of each with it and without."""
    ends = range(begin, end + 1, BLOCK)
    sizes = [size(stream[begin - context : at]) for at in ends]
    return [8 * (b - a) / BLOCK for a, b in pairwise(sizes)]


def run(corpus: str, reader: str, context: int, group: int, *, runs: Path, data: Path) -> Row:
    """A group of blocks by one reader behind one context, in this process."""
    stream, started = text(corpus, data), time.process_time()
    if reader in MODELS:
        folder, changed = MODELS[reader]
        model = reformer.ReformerForCausalLM.from_pretrained(runs / folder, **changed)
        read: Callable[..., list[float]] = partial(predict, model)
    else:
        read = partial(compressed, compressors()[reader])
    start = start_of(group, len(stream), max(CONTEXTS))
    found = [round(bits, 4) for place in parts(start, context) for bits in read(stream, context, *place)]
    row: Row = {"corpus": corpus, "reader": reader, "context": context, "group": group, "bits of blocks": found}
    return {**row, "cpu seconds": round(time.process_time() - started, 1)}


def write_training_text(folder: Path, data: Path) -> None:
    """The files of `training_text`, for `reformer train`."""
    for document in training_text(data):
        path = folder / document.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(document.text)


def small() -> None:
    """A tiny model needs fewer bits behind a longer context than it was trained with."""
    torch.manual_seed(0)
    model, rng = build("LSH", 64, 2, 512), np.random.default_rng(0)
    stream = joined(library()[:200])

    def draw(_: int) -> Batch:
        begin = int(rng.integers(0, len(stream) // 2 - 512))
        tokens = torch.from_numpy(stream[begin : begin + 512].astype(np.int64))[None] + 3
        return {"input_ids": tokens, "labels": tokens}

    fit(model, draw, 120, 1e-2)
    read, start = stream.tobytes(), start_of(0, len(stream), len(stream) // 2)
    bits = {}
    for context in (512, 16384):
        found = [bit for place in parts(start, context) for bit in predict(model, read, context, *place)]
        bits[context] = float(np.mean(found))
    print(bits)
    assert bits[16384] < bits[512], bits


def main() -> None:
    if sys.argv[1:2] == ["--text"]:
        write_training_text(Path(sys.argv[2]), DATA)
        return
    options: dict[str, list[Any]] = {"corpus": ["code", "books"], "reader": list(READERS), "context": list(CONTEXTS)}
    run_cells(__doc__, OUT, {**options, "group": list(range(GROUPS))}, run, small, runs=Path("../runs"), data=DATA)


if __name__ == "__main__":
    main()
