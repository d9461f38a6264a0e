"""The Keras model: fit, a loop of one's own, files, policies."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:keras.*", "ignore::UserWarning:keras.*")


@pytest.fixture(autouse=True)
def plain_memory() -> None:
    """Keras's random layers use operations that have no deterministic form."""
    torch.use_deterministic_algorithms(False)
    keras.utils.set_random_seed(0)


def make(**options: Any) -> Any:
    from reformer.keras import ReformerLM

    small: dict[str, Any] = {"num_tokens": 20, "emb_dim": 16, "max_seq_len": 64, "depth": 2, "heads": 2}
    return ReformerLM(**{**small, **options})


def compiled(model: Any) -> Any:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
    model.compile(optimizer=keras.optimizers.Adam(1e-2), loss=loss, metrics=[accuracy])
    return model


def data(rows: int = 16, length: int = 30) -> tuple[np.ndarray, np.ndarray]:
    tokens = (np.arange(rows)[:, None] + np.arange(length + 1)) % 20
    return tokens[:, :-1], tokens[:, 1:]


def test_fit_evaluate_predict() -> None:
    model, (x, y) = compiled(make()), data()
    before = model.evaluate(x, y, verbose=0)
    history = model.fit(x, y, epochs=6, batch_size=4, verbose=0)
    after = model.evaluate(x, y, verbose=0, return_dict=True)
    assert after["loss"] < 0.5 * before[0]
    assert history.history["loss"][-1] < history.history["loss"][0]
    assert model.predict(x, verbose=0).shape == (16, 30, 20)
    assert model.count_params() == sum(p.numel() for p in model.torch_model.parameters())


def test_a_train_step_of_ones_own() -> None:
    from reformer.keras import ReformerLM

    class Own(ReformerLM):
        def train_step(self, data: Any) -> dict[str, Any]:
            x, y = data
            logits = self(x, training=True)
            self.zero_grad()
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten().long())
            loss.backward()
            gradients = [variable.value.grad for variable in self.trainable_weights]
            with torch.no_grad():
                self.optimizer.apply(gradients, self.trainable_weights)
            return {"own": loss}

    model, (x, y) = compiled(Own(num_tokens=20, emb_dim=16, depth=1, heads=2)), data()
    history = model.fit(x, y, epochs=3, verbose=0).history["own"]
    assert history[-1] < history[0]


def test_without_training_it_evaluates() -> None:
    model, (x, _) = make(ff_dropout=0.5, attn_dropout=0.5), data(2)
    x = torch.from_numpy(x)
    assert torch.equal(model(x), model(x))
    assert torch.equal(model(x), model(x, training=False))
    assert not torch.equal(model(x, training=True), model(x, training=True))


def test_files_load_in_safe_mode(tmp_path: Path) -> None:
    model, (x, y) = compiled(make(lsh_dropout=0.1)), data()
    model.fit(x, y, epochs=1, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert again.get_config()["lsh_dropout"] == 0.1
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))
    again.fit(x, y, epochs=1, verbose=0)
    model.save_weights(tmp_path / "model.weights.h5")
    other = make()
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(other.predict(x, verbose=0), model.predict(x, verbose=0))


def test_files_of_before_are_refused(tmp_path: Path) -> None:
    model = compiled(make())
    model.predict(data()[0], verbose=0)
    model.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as new, zipfile.ZipFile(tmp_path / "old.keras", "w") as old:
        for name in new.namelist():
            content = new.read(name)
            if name == "config.json":
                content = content.replace(b', "rule_version": 2', b"")
                assert content != new.read(name)
            old.writestr(name, content)
    with pytest.raises(ValueError, match=r"^rule_version=1 is none that this library computes.*train the model again"):
        keras.saving.load_model(tmp_path / "old.keras")


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float64"])
def test_policies(policy: str) -> None:
    model, (x, y) = compiled(make(dtype=policy)), data()
    history = model.fit(x, y, epochs=3, verbose=0).history["loss"]
    assert history[-1] < history[0]
    weights = torch.float64 if policy == "float64" else torch.float32
    assert {p.dtype for p in model.torch_model.parameters()} == {weights}
    assert model(torch.from_numpy(x)).dtype == weights


def test_as_part_of_a_functional_model() -> None:
    tokens = keras.Input((None,), dtype="int64")
    logits = make()(tokens)
    assert logits.shape == (None, None, 20)
    whole = keras.Model(tokens, keras.layers.Softmax()(logits))
    assert whole.predict(data(2)[0], verbose=0).shape == (2, 30, 20)
    assert make(return_embeddings=True).compute_output_shape((2, 30)) == (2, 30, 16)


@pytest.mark.slow
def test_another_backend_gets_the_way_out() -> None:
    """A Keras that says it runs on another backend."""
    code = (
        "import keras, keras.src.backend.config as config; keras.backend.backend = lambda: 'jax';"
        "from reformer.keras import ReformerLM; ReformerLM(num_tokens=3, emb_dim=4, heads=2)"
    )
    environment = {**os.environ, "KERAS_BACKEND": "torch"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert "Keras runs on 'jax'" in done.stderr
    assert "set KERAS_BACKEND=torch" in done.stderr
