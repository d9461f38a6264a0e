"""A reversible model and its plain twin follow the same loss curve on real text."""

import pytest
import torch

from reformer.data.corpus import split_held_out, standard_library
from reformer.data.stream import join_documents
from reformer.data.windows import TrainingWindows
from reformer.settings import ModelSettings
from reformer.settings.phases import Phase
from reformer.training.run import build_model


def curve(reversible: bool, dtype: torch.dtype, steps: int = 50) -> list[float]:
    settings = ModelSettings(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        window=8,
        local_window=16,
        num_hashes=2,
        reversible=reversible,
        embedding_dropout=0.1,
        attention_dropout=0.1,
        hidden_dropout=0.1,
    )
    model = build_model(settings, 0).to(dtype).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    stream = join_documents(split_held_out(standard_library(), 0.05)[0])
    windows = TrainingWindows(stream, [Phase(192, steps)], rows=2, seed=0)
    torch.manual_seed(1)
    losses = []
    for step in range(steps):
        batch = torch.stack([windows[2 * step]["input_ids"], windows[2 * step + 1]["input_ids"]])
        loss = model(batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.slow
def test_fp64_curves_agree_to_1e_6() -> None:
    plain, reversible = curve(False, torch.float64), curve(True, torch.float64)
    assert max(abs(a - b) for a, b in zip(plain, reversible, strict=True)) < 1e-6
    assert sum(plain[-5:]) / 5 < plain[0] - 2  # it learned
