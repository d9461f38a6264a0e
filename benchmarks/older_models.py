"""A training step of live models of transformers and reformer-pytorch, before and after `accelerate`.

Forward and backward of a batch of one, both models in one process in turn, best of the repeats. Of transformers' the
loss and gradients of the two are compared too (rotations are drawn from `hash_seed`; no dropout, with which its own
gradients are wrong); rotations of reformer-pytorch are drawn anew in each call.
"""

import argparse
import copy
import time
from typing import Any

import torch
from machine import save

MODELS = {
    "transformers, defaults": {"attn_layers": ["local", "lsh"] * 3},
    "transformers, 4 rounds": {"attn_layers": ["local", "lsh"] * 3, "num_hashes": 4},
    "transformers, crime-and-punishment": {
        "attn_layers": ["local", "lsh"] * 3,
        "num_attention_heads": 2,
        "num_buckets": [64, 128],
    },
}
"""Of transformers: 256 wide, feed-forward 512, heads of 64 (12 unless said), chunks of 64, 1 round unless said."""

REFORMER_PYTORCH = {"dim": 256, "depth": 6, "heads": 4, "dim_head": 64, "n_hashes": 4, "causal": True}


def of_transformers(options: dict[str, Any], length: int) -> tuple[Any, Any]:
    import transformers

    from reformer.interop.transformers import accelerate

    config = transformers.ReformerConfig(
        is_decoder=True,
        vocab_size=320,
        hash_seed=0,
        use_cache=False,
        hidden_dropout_prob=0.0,
        local_attention_probs_dropout_prob=0.0,
        max_position_embeddings=length,
        axial_pos_shape=(length // 128, 128),
        **options,
    )
    torch.manual_seed(0)
    model = transformers.ReformerModelWithLMHead(config).train()
    return model, accelerate(copy.deepcopy(model))


def of_reformer_pytorch(length: int) -> tuple[Any, Any]:
    from reformer_pytorch import ReformerLM

    from reformer.interop.reformer_pytorch import accelerate

    model = ReformerLM(num_tokens=320, max_seq_len=length, **REFORMER_PYTORCH).train()
    return model, accelerate(copy.deepcopy(model))


def step(model: Any, tokens: torch.Tensor, bf16: bool = False) -> tuple[float, float]:
    """Seconds and loss of a forward and backward."""
    model.zero_grad(set_to_none=True)
    started = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        output = model(tokens)
        logits = output if isinstance(output, torch.Tensor) else output.logits
        loss = torch.nn.functional.cross_entropy(logits[0, :-1].float(), tokens[0, 1:])
    loss.backward()
    return time.perf_counter() - started, loss.item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--length", type=int, default=16_384)
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    rows = []
    for name, bf16 in [(name, False) for name in (*MODELS, "reformer-pytorch")] + [(next(iter(MODELS)), True)]:
        tokens = torch.randint(2, 320, (1, arguments.length), generator=torch.Generator().manual_seed(0))
        short = tokens[:, :1024]
        if name in MODELS:
            step(of_transformers(MODELS[name], 1024)[1], short, bf16)  # compiles
            pair = of_transformers(MODELS[name], arguments.length)
        else:
            step(of_reformer_pytorch(1024)[1], short)
            pair = of_reformer_pytorch(arguments.length)
        found = [[step(model, tokens, bf16) for model in pair] for _ in range(arguments.repeats)]
        theirs, ours = (min(run[k][0] for run in found) for k in (0, 1))
        row = {"model": name, "length": arguments.length, "autocast": "bf16" if bf16 else "none"}
        row |= {"before_s": theirs, "after_s": ours, "ratio": theirs / ours}
        if name in MODELS and not bf16:
            gradients = [torch.cat([p.grad.flatten() for p in m.parameters() if p.grad is not None]) for m in pair]
            row["loss_difference"] = abs(found[-1][0][1] - found[-1][1][1])
            row["gradient_difference"] = float((gradients[0] - gradients[1]).norm() / gradients[0].norm())
        print({key: round(value, 6) if isinstance(value, float) else value for key, value in row.items()}, flush=True)
        rows.append(row)
    save("older_models", rows)


if __name__ == "__main__":
    main()
