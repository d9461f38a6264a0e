"""`evaluate --stream`: a book in one context, at a memory that does not depend on its length but for the cache.

A model of 2 layers (local, LSH), width 64, 4 heads, with random weights, reads the first part of "War and Peace" and
then all of it, without and with a limit of buckets, each in a fresh process. Where the full forward fits, bits per byte
are those of the full forward.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from machine import save
from memory import MIB, in_fresh_process, peak_over_start

import reformer
from reformer.data.corpus import Document
from reformer.inference.evaluate import evaluate, evaluate_stream

BUCKETS = 256


def run(book: Path, size: int, buckets: int | None, whole: bool, piece: int) -> dict[str, Any]:
    torch.manual_seed(0)
    config = reformer.ReformerConfig(hidden_size=64, num_hidden_layers=2, num_buckets=buckets)
    model = reformer.ReformerForCausalLM(config).eval()
    document = Document(book.name, book.read_bytes()[:size])
    evaluate_stream(model, [Document("warm", document.text[:2000])], piece)  # compiles and loads
    result: dict[str, Any] = {"bytes": len(document.text), "buckets": buckets}

    def measured() -> None:
        started = time.perf_counter()
        found = evaluate_stream(model, [document], piece)
        result["seconds"] = time.perf_counter() - started
        result["bits_per_byte"], result["cache_bytes"] = found.bits_per_byte, found.cache_bytes

    result["peak_bytes"] = peak_over_start(measured)
    if whole:
        result["full_bits_per_byte"] = evaluate(model, [document], size + 1).bits_per_byte
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--book", type=Path, default=Path("../shared/data/books/war_and_peace.txt"))
    parser.add_argument("--sizes", default="100000,300000,1000000,10000000", help="bytes; the first in full too")
    parser.add_argument("--piece", type=int, default=8192)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(run(arguments.book, *json.loads(arguments.one), arguments.piece)))
        return
    sizes, rows = [int(size) for size in arguments.sizes.split(",")], []
    print(f"{'buckets':8}{'bytes':>12}{'bits/byte':>12}{'full':>12}{'seconds':>9}{'cache MiB':>11}{'peak MiB':>10}")
    for buckets in (None, BUCKETS):
        for size in sizes:
            row = in_fresh_process(
                __file__,
                f"--one={json.dumps([size, buckets, size == sizes[0]])}",
                f"--book={arguments.book}",
                f"--piece={arguments.piece}",
            )
            rows.append(row)
            full = f"{row['full_bits_per_byte']:.6f}" if "full_bits_per_byte" in row else ""
            print(
                f"{buckets or 'any':<8}{row['bytes']:>12,}{row['bits_per_byte']:>12.6f}{full:>12}{row['seconds']:>9.1f}"
                f"{row['cache_bytes'] / MIB:>11.1f}{row['peak_bytes'] / MIB:>10.1f}",
                flush=True,
            )
            save("stream", rows, piece=arguments.piece)


if __name__ == "__main__":
    main()
