"""One training step of a deep reversible model over a very long sequence on one GPU: time and peak memory.

Twelve layers of width 1,024 over 1,048,576 tokens, local and LSH attention in turn, bytes in and bytes out, bf16
autocast, AdamW. Built from the library's layers alone, so it asks for nothing but PyTorch and triton.
"""

import argparse
import os
import sys
import time

import bare  # noqa: F401 - the library, where little is installed
import torch
import torch.nn.functional as F
from machine import save
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

VOCABULARY, PIECE = 256, 16384


class Branch(nn.Module):
    """Norm, then attention or feed-forward."""

    def __init__(self, width: int, inner: nn.Module) -> None:
        super().__init__()
        self.norm, self.inner = nn.LayerNorm(width), inner

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(self.norm(x))
        return out


class Model(nn.Module):
    """A causal language model over bytes."""

    def __init__(self, layers: int, width: int, heads: int) -> None:
        from reformer.layers.attention import LocalAttention, LSHAttention
        from reformer.layers.feed_forward import FeedForward
        from reformer.layers.reversible import ReversibleSequence

        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        blocks = []
        for i in range(layers):
            attention = LSHAttention(width, heads) if i % 2 else LocalAttention(width, heads, rotary=True)
            blocks.append((Branch(width, attention), Branch(width, FeedForward(width, 4 * width, chunk_size=PIECE))))
        self.stack, self.norm = ReversibleSequence(blocks), nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCABULARY, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        y1, y2 = self.stack(x, x)
        hidden, targets = ((y1 + y2) / 2)[:, :-1], tokens[:, 1:]
        pieces = zip(hidden.split(PIECE, 1), targets.split(PIECE, 1), strict=True)
        losses = [checkpoint(self.loss, piece, target, use_reentrant=False) for piece, target in pieces]
        return torch.stack(losses).sum() / targets.numel()

    def loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        logits = self.head(self.norm(hidden)).float()
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lengths", nargs="+", type=int, default=[1 << 16, 1 << 20])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--dry", action="store_true", help="one small step in the interpreter")
    arguments = parser.parse_args()
    device, dtype = "cuda", torch.bfloat16
    if arguments.dry:
        os.environ["TRITON_INTERPRET"] = "1"
        device, dtype, arguments.lengths, arguments.layers, arguments.width = "cpu", torch.float32, [100], 2, 16
        arguments.heads = 1
        from reformer.ops import attention, backends

        attention.choose_backend = lambda _, q, at: backends.choose_backend("triton", q, at)
    elif not torch.cuda.is_available():
        sys.exit("there is no GPU; --dry takes a small step in Triton's interpreter")
    torch.manual_seed(0)
    model = Model(arguments.layers, arguments.width, arguments.heads).to(device)
    optimizer = torch.optim.AdamW(model.parameters())
    rows = []
    for length in arguments.lengths:
        tokens = torch.randint(VOCABULARY, (1, length), device=device)
        for _repeat in range(2):  # the first compiles and tunes
            if device == "cuda":
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            started = time.perf_counter()
            with torch.autocast(device, dtype, enabled=dtype != torch.float32):
                loss = model(tokens)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            value = loss.item()
            seconds = time.perf_counter() - started
        peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
        print(f"{length:>9,} tokens: {seconds:.3f} s a step, loss {value:.3f}, peak {(peak or 0) / 2**30:.1f} GiB")
        rows.append({"length": length, "seconds": seconds, "loss": value, "peak_bytes": peak})
    if not arguments.dry:
        sizes = {name: getattr(arguments, name) for name in ("layers", "width", "heads")}
        weights = sum(p.numel() for p in model.parameters())
        save("gpu_step", rows, weights=weights, **sizes)


if __name__ == "__main__":
    main()
