"""Looking into a model: weights are those of its own operation, and the page shows them."""

import base64
import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import reformer
from reformer.data.tokenizer import ByteTokenizer
from reformer.errors import InputError
from reformer.layers.attention import LocalAttention, LSHAttention
from reformer.ops.attention import attend_by_content, attend_nearby
from reformer.ops.sequences import Sequences
from reformer.ops.shift import shift
from reformer.report.inspect import inspect_page, room_for
from reformer.report.labels import labels_of, read_tokens
from reformer.report.look import Head, Layer, look
from tests.cli.command import TINY
from tests.cli.command import reformer as command
from tests.report.browser import started

LENGTH = 70
CASES: dict[str, dict[str, Any]] = {
    "bucket": {"window": 4, "num_hashes": 3},
    "once": {"window": 4, "num_hashes": 3, "duplicates": "once"},
    "own values, both ways": {"window": 4, "num_hashes": 2, "causal": False},
    "chunk": {"rule": "chunk", "chunk_length": 8, "num_hashes": 2},
    "chunk, turned": {"rule": "chunk", "chunk_length": 8, "num_hashes": 1, "lsh_rotary": True},
    "local": {"attention_pattern": ("local",), "local_window": 9},
}


def build(**settings: Any) -> Any:
    torch.manual_seed(0)
    kind: Any = reformer.ReformerForCausalLM if settings.get("causal", True) else reformer.ReformerForMaskedLM
    chosen = {"attention_pattern": ("lsh",), **settings}
    config = reformer.ReformerConfig(
        vocab_size=259, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, **chosen
    )
    return kind(config).double().eval()


def text() -> torch.Tensor:
    torch.manual_seed(1)
    tokens = torch.randint(3, 259, (1, LENGTH))
    tokens[:, 40:60] = tokens[:, 5:25]
    return tokens


@pytest.mark.parametrize("case", CASES)
def test_weights_are_those_of_the_operation(case: str) -> None:
    model, tokens, calls = build(**CASES[case]), text(), {}
    for module in model.modules():
        if isinstance(module, LSHAttention | LocalAttention):
            module.register_forward_pre_hook(lambda module, given: calls.__setitem__(given[2], (module, *given)))
    layers = look(model, tokens, matches=LENGTH)
    assert [layer.number for layer in layers] == [0, 1]
    for layer in layers:
        module, x, batch, number = calls[layer.number]
        v = module._heads(module.value, x)
        spec, sequences = module.spec_in_evaluation, Sequences.of(x)
        if isinstance(module, LSHAttention):
            q = module._heads(module.query_key, module._context(x, batch, number))
            turned = module._rotated(batch, q)[0] if module.rotary else q
            hashed = q if module.rotary else None
            seed = batch.seeds[number]
            out = attend_by_content(turned, v, spec, sequences, hashed=hashed, seed=seed, backend="plain")
            delivered = shift(v, 1, sequences) if spec.successor_values else v
        else:
            q, k = module._heads(module.query, x), module._heads(module.key, x)
            q, k = module._rotated(batch, q, k)
            out, delivered = attend_nearby(q, k, v, spec, sequences, backend="plain"), v
        for i, head in enumerate(layer.heads):
            weights = torch.zeros(LENGTH, LENGTH + 1, dtype=torch.float64)
            weights.scatter_(1, torch.from_numpy(head.keys) % (LENGTH + 1), torch.from_numpy(head.weights))
            assert (weights[:, :LENGTH] @ delivered[0, i] - out[0, i]).abs().max() < 1e-9
            assert (np.diff(head.weights, axis=1) <= 0).all()  # the heaviest first
            assert 0 < head.mass <= 1 + 1e-9
            assert head.distances.sum() == pytest.approx(1)
    if case == "bucket":  # the first tokens see all that exact attention does
        short = look(model, tokens[:, :4], matches=4)
        assert all(head.mass == pytest.approx(1) for layer in short for head in layer.heads)
        assert all(head.buckets.shape == (3, LENGTH) for layer in layers for head in layer.heads)


def test_what_cannot_be_looked_into() -> None:
    with pytest.raises(InputError, match="layers 0 to 1"):
        look(build(), text(), layer=2)
    with pytest.raises(InputError, match="all pairs"):
        look(build(attention_pattern=("full",)), text())
    settings = {"hidden_size": 16, "num_decoder_layers": 1, "decoder_start_token_id": 1, "num_attention_heads": 2}
    both = reformer.ReformerForConditionalGeneration(reformer.ReformerConfig(**settings, vocab_size=259))
    with pytest.raises(InputError, match="encoder-decoder"):
        look(both, text())


def test_labels() -> None:
    tokenizer = ByteTokenizer()
    hostile = "a\u00e4\n\t\u202eb\u05d0</script><b>\U0001f600\x00".encode() + b"\xff\xc3"
    labels = labels_of([int(token) for token in tokenizer.encode([hostile])[0]], tokenizer)
    assert len(labels) == len(hostile)
    assert labels[:6] == ["a", "\u00e4", "\u00b7", "\u23ce", "\u21e5   ", "\u27e8202e\u27e9"]
    assert labels[-3:] == ["\u2400", "\u27e8ff\u27e9", "\u27e8c3\u27e9"]
    assert "\u202e" not in "".join(labels)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model and its page of a hostile text."""
    folder = tmp_path_factory.mktemp("inspect")
    (folder / "text.txt").write_text("one two three four five " * 200)
    trained = command("train", "text.txt", *TINY.split(), "--out", "run", cwd=folder)
    assert trained.returncode == 0, trained.stderr
    hostile = b"</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>\xff\xe2\x80\xae one "
    (folder / "hostile.txt").write_bytes(hostile * 20)
    done = command("inspect", "run", "hostile.txt", cwd=folder)
    assert (done.returncode, done.stdout) == (0, "run/inspect.html\n"), done.stderr
    return folder / "run" / "inspect.html"


def test_the_page_loads_nothing_and_holds_no_text_as_html(page: Path) -> None:
    html = page.read_text()
    assert "hacked" not in html
    assert html.count("<script") == html.count("</script>") == 2
    assert not re.search(r"(src|href)\s*=", html.split('<script type="application/json"')[0])
    assert "default-src 'none'" in html


def test_errors_of_the_verb(page: Path) -> None:
    folder = page.parents[1]
    (folder / "one.txt").write_text("a")
    for arguments, said in (
        (("run", "missing.txt"), "missing.txt"),
        (("run", "one.txt"), "two or more"),
        (("text.txt", "text.txt"), "text.txt"),
        (("run", "text.txt", "--layer", "7"), "layers 0 to 1"),
        (("run", "text.txt", "--length", "1"), "length"),
        (("run", "text.txt", "--out", "no/where.html"), "cannot be written"),
        (("run", "text.txt", "--out", "."), "is no file"),
    ):
        done = command("inspect", *arguments, cwd=folder)
        assert done.returncode == 2, done.stderr
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_a_reader_sees_the_model_look_up(page: Path) -> None:
    told = json.loads(re.findall(r'<script type="application/json" id=data>(.*?)</script>', page.read_text())[0])
    head = told["layers"][0]["heads"][0]
    keys = np.frombuffer(base64.b64decode(head["keys"]["data"]), "<u2")
    weights = np.frombuffer(base64.b64decode(head["weights"]["data"]), "<u2")
    labels = json.loads(base64.b64decode(told["labels"]))
    matches = len(keys) // len(labels)
    with started() as browser:
        browser.open(page)
        assert browser.run("return window.hacked === undefined")
        shown = browser.run("return selected")
        browser.click(f"#t{shown - 3}")
        token = browser.run("return selected")
        assert token == shown - 3
        mine = slice(token * matches, (token + 1) * matches)
        rows = browser.run("return [...document.querySelectorAll('#matches button')].map(b => b.ariaLabel)")
        assert len(rows) == (keys[mine] < 0xFFFF).sum()
        for row, key, weight in zip(rows, keys[mine], weights[mine], strict=False):
            assert row.startswith(f"token {key}, ")
            assert float(row.split(", ")[1].split(" %")[0]) == pytest.approx(100 * int(weight) / 65535, abs=0.06)
            assert row.endswith(f"delivers {labels[key + 1]}")
        browser.click("#text")
        chosen = browser.run("return selected")
        browser.press("\ue014")  # right
        assert browser.run("return selected") == chosen + 1
        browser.press("\ue011")  # home
        assert browser.run("return [selected, document.getElementById('none').hidden]") == [0, False]
        assert browser.run("return document.getElementById('text').scrollTop") < 30
        browser.press("\ue010")  # end
        assert browser.run("return document.querySelector('.on').textContent") == labels[-1]
        browser.run("byId('head').value = 1; byId('head').dispatchEvent(new Event('change'))")
        assert browser.run("return head === cache.get('0.1')")
        assert not [message for message in browser.messages() if "favicon" not in message]


def test_pages_of_long_texts_stay_small() -> None:
    """At most 25 MB for 16,384 tokens, however many heads; `benchmarks/inspect_page.py` measures how quick they are."""
    rng, length, heads = np.random.default_rng(0), 16_384, 96
    matches, rounds = room_for(length, heads, 4)
    head = Head(
        rng.integers(0, length, (length, matches)),
        rng.random((length, matches)),
        rng.integers(0, 512, (4, length)),
        0.5,
        np.ones(14) / 14,
        np.ones(9, np.int64),
    )
    layers = [Layer(i, "lsh", True, True, heads=[head] * 16) for i in range(6)]
    page = inspect_page("long", "much", labels_of([200] * length, ByteTokenizer()), layers, rounds)
    assert 8e6 < len(page) < 25e6
    assert room_for(length, 8, 4) == (8, 4)


def test_a_narrow_window_has_one_column_and_the_night_is_dark(page: Path) -> None:
    columns = "return getComputedStyle(document.querySelector('.split')).gridTemplateColumns.split(' ').length"
    with started() as browser:
        browser.open(page)
        assert browser.run(columns) == 2
        paper = browser.run("return getComputedStyle(document.body).backgroundColor")
        size = {"width": 360, "height": 700, "deviceScaleFactor": 1, "mobile": True}
        browser.ask("POST", "/goog/cdp/execute", cmd="Emulation.setDeviceMetricsOverride", params=size)
        assert browser.run(columns) == 1
        assert browser.run("return document.documentElement.scrollWidth <= 360")
        dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
        browser.ask("POST", "/goog/cdp/execute", cmd="Emulation.setEmulatedMedia", params=dark)
        night = browser.run("return getComputedStyle(document.body).backgroundColor")
        assert (paper, night) == ("rgb(255, 255, 255)", "rgb(18, 21, 27)")


def test_a_long_text_is_not_read_whole(page: Path, tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_bytes(b"word " * 2_000_000)
    begun = time.perf_counter()
    tokens, labels, more = read_tokens(str(tmp_path / "long.txt"), ByteTokenizer(), 50)
    assert (tokens.shape, len(labels), more) == ((1, 50), 50, True)
    assert time.perf_counter() - begun < 5
    assert read_tokens(str(page.parents[1] / "text.txt"), ByteTokenizer(), 10_000)[2] is False


@pytest.mark.slow
def test_models_of_bounded_length_see_as_much_as_they_can(page: Path) -> None:
    folder, limit = page.parents[1], ("--position-embedding", "learned", "--max-position-embeddings", "64")
    done = command("train", "text.txt", *TINY.split(), *limit, "--out", "short", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "short" / "findings.json").read_text())["samples"][0]["text"]
    assert command("inspect", "short", "text.txt", cwd=folder).returncode == 0
    assert "The first 64 tokens of a longer text" in (folder / "short" / "inspect.html").read_text()
