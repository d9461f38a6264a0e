"""What is measured of a model when its training ends: held-out loss by position, samples."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reformer.data.stream import TokenStream
from reformer.data.tokenizer import Tokenizer
from reformer.data.windows import HeldOutWindows
from reformer.inference.evaluate import Evaluation, Score, evaluating
from reformer.inference.generate import generate_text
from reformer.inference.sampling import Sampling
from reformer.models import ReformerForCausalLM
from reformer.models.cache import why_not_cached
from reformer.report.runs import FINDINGS

SAMPLES, PROMPT, WRITTEN = 2, 96, 256
"""How many, and tokens of each."""


def measure(
    model: ReformerForCausalLM, tokenizer: Tokenizer, held_out: TokenStream, length: int, most: int
) -> dict[str, Any]:
    """Losses by tokens of context, in nats, over windows of at most so many tokens, and samples."""
    windows, result = HeldOutWindows(held_out, length, most), Evaluation()
    with torch.no_grad(), evaluating(model):
        for i in range(len(windows)):
            tokens = windows[i]["input_ids"][None].to(model.device)
            scored = model.score(tokens[:, :-1], tokens[:, 1:])
            result.add(Score(), scored.nll[0].double().cpu().numpy(), scored.correct[0].cpu().numpy(), 1)
    positions = [
        {"from": 1 << k, "tokens": one.tokens, "loss": one.loss} for k, one in sorted(result.positions.items())
    ]
    samples, limit = [], model.config.settings.length_limit
    prompt_size, written = (PROMPT, WRITTEN) if limit is None else (min(PROMPT, limit // 4), min(WRITTEN, limit // 2))
    if why_not_cached(model.config.settings) is None and written:
        prompts = _prompts(held_out, prompt_size)
        samples = [_sample(model, tokenizer, prompt, seed, written) for seed, prompt in enumerate(prompts)]
    return {"positions": positions, "samples": samples}


def write_findings(folder: Path, findings: dict[str, Any]) -> None:
    """Put them into a run's folder."""
    (folder / FINDINGS).write_text(json.dumps(findings, indent=1), encoding="utf-8")


def _prompts(held_out: TokenStream, size: int) -> list[Tensor]:
    size = min(size, len(held_out))
    starts = range(0, len(held_out) - size + 1, max((len(held_out) - size) // SAMPLES, 1))
    return [torch.from_numpy(held_out.part(start, start + size)) for start in list(starts)[:SAMPLES] if size]


def _sample(model: ReformerForCausalLM, tokenizer: Tokenizer, prompt: Tensor, seed: int, most: int) -> dict[str, str]:
    written: list[str] = []
    text = tokenizer.as_bytes([token for token in prompt.tolist() if token != tokenizer.end])
    sampling = Sampling(temperature=0.8, top_p=0.95, seed=seed)
    generate_text(model, text, most, written.append, sampling, tokenizer=tokenizer)
    return {"prompt": text.decode("utf-8", "replace"), "text": "".join(written)}
