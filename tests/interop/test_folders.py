"""`reformer convert`: folders both ways, with their tokenizers."""

from pathlib import Path

import pytest
import torch
import transformers

from reformer.cli.main import main
from reformer.data.tokenizer import tokenizer_of
from reformer.models import ReformerConfig, ReformerForCausalLM
from reformer.training.checkpoint import load_checkpoint
from tests.interop.models import random_config, random_model


def theirs_in(folder: Path, **settings: object) -> transformers.PreTrainedModel:
    model = random_model(random_config(3, is_decoder=True, num_buckets=4, **settings)).float()
    model.save_pretrained(folder)
    return model


def test_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = theirs_in(tmp_path / "theirs")
    assert main(["convert", str(tmp_path / "theirs"), str(tmp_path / "ours")]) == 0
    assert "is now a model of this library" in capsys.readouterr().out
    tokens = torch.randint(1, 40, (1, 30))
    with torch.no_grad():
        torch.testing.assert_close(load_checkpoint(tmp_path / "ours")(tokens).logits, model(tokens).logits)
    assert main(["convert", str(tmp_path / "ours"), str(tmp_path / "again")]) == 0
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])


def test_bytes_plus_two(tmp_path: Path) -> None:
    theirs_in(tmp_path / "theirs", vocab_size=258)
    assert main(["convert", str(tmp_path / "theirs"), str(tmp_path / "ours")]) == 0
    tokenizer = tokenizer_of(tmp_path / "ours")
    text = bytes(range(128)) + "naïve \u4e2d\u6587 \U0001f600".encode()
    (found,) = tokenizer.encode([text])
    assert found.tolist() == [byte + 2 for byte in text]
    assert tokenizer.as_bytes(found.tolist()) == text
    assert (tokenizer.pad, tokenizer.end, tokenizer.vocabulary) == (0, 1, 258)


def test_a_sentencepiece_tokenizer_goes_along(tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    theirs_in(tmp_path / "theirs", vocab_size=320)
    text = "it was on a cold evening early in the spring that a young man came out of the garret in which he lodged. "
    (tmp_path / "text.txt").write_text("\n".join(text[i:] for i in range(60)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text.txt"),
        model_prefix=str(tmp_path / "theirs" / "spiece"),
        vocab_size=60,
        model_type="bpe",
        eos_id=2,
        unk_id=0,
        bos_id=-1,
        pad_id=-1,
        minloglevel=2,
    )
    config = '{"tokenizer_class": "ReformerTokenizer", "eos_token": "</s>", "unk_token": "<unk>"}'
    (tmp_path / "theirs" / "tokenizer_config.json").write_text(config)
    assert main(["convert", str(tmp_path / "theirs"), str(tmp_path / "ours")]) == 0
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "theirs" / "spiece.model"))
    tokenizer = tokenizer_of(tmp_path / "ours")
    (found,) = tokenizer.encode([text.strip().encode()])
    assert found.tolist() == pieces.encode(text.strip())
    assert tokenizer.as_bytes(found.tolist()).decode() == text.strip()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none", "x"], "config.json cannot be read"),
        (["theirs", "theirs"], "is there already"),
        (["theirs", "no/x"], "parent does not exist"),
        (["theirs", "x", "--length", "0"], "length=0"),
        (["ours", "x"], "position_embedding='rotary'"),
        (["ours", "x", "--length", "9"], "leave it out"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    theirs_in(Path("theirs"))
    config = ReformerConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    ReformerForCausalLM(config).save_pretrained("ours")
    before = sorted(path.name for path in tmp_path.iterdir())
    capfd.readouterr()
    assert main(["convert", *arguments]) == 2
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert said in line
    assert sorted(path.name for path in tmp_path.iterdir()) == before
