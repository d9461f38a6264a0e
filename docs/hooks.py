"""What the site has beyond the pages: pictures of benchmarks, the commands' help, the reference of public names."""

import io
import os
import re
from contextlib import redirect_stdout, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
RESULTS = "results"

SECTIONS = {
    "Training": "train",
    "Operations": "lsh_attention local_attention",
    "Layers": "LSHAttention LocalAttention FullAttention ReversibleSequence",
    "Models": "ReformerConfig ReformerModel ReformerForCausalLM ReformerForMaskedLM ReformerForSequenceClassification "
    "ReformerForTokenClassification ReformerForQuestionAnswering ReformerForConditionalGeneration ReformerLM "
    "SequenceParallel",
    "Caches and decoding": "ReformerCache models.save_cache models.load_cache models.FrozenCache models.CacheRows "
    "models.DryLogitsProcessor",
    "Settings": "settings.ModelSettings settings.data.DataSettings settings.training.TrainingSettings "
    "settings.serving.ServerSettings",
    "Other libraries": "interop.transformers.from_transformers interop.transformers.to_transformers "
    "interop.transformers.accelerate interop.reformer_pytorch.from_reformer_pytorch "
    "interop.reformer_pytorch.accelerate keras.ReformerLM",
    "Errors": "InputError",
}
"""Public names, below `reformer`."""


def on_files(files: Files, config: Any) -> Files:
    """Pictures that benchmarks drew."""
    for picture in sorted((ROOT / "benchmarks" / RESULTS).glob("*.svg")):
        source = str(picture.parent.parent)
        files.append(File(f"{RESULTS}/{picture.name}", source, config["site_dir"], use_directory_urls=False))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links to files of the repository become their names; marks become what they stand for."""
    markdown = re.sub(r"\]\(\.\./benchmarks/results/([\w.]+\.svg)\)", rf"]({RESULTS}/\1)", markdown)
    markdown = re.sub(r"(?<!!)\[([^\]]+)\]\(\.\./[^)]*\)", r"\1", markdown)
    return markdown.replace("<!-- help -->", _helps()).replace("<!-- reference -->", _reference())


def _helps() -> str:
    """The help of each verb."""
    from reformer.cli.main import VERBS, main

    os.environ["COLUMNS"], parts = "100", []
    for verb in VERBS:
        said = io.StringIO()
        with redirect_stdout(said), suppress(SystemExit):
            main([verb, "--help"])
        parts.append(f"## reformer {verb}\n\n```text\n{said.getvalue().strip()}\n```\n")
    return "\n".join(parts)


def _reference() -> str:
    parts: list[str] = []
    for title, names in SECTIONS.items():
        parts += [f"## {title}\n", *(f"::: {_home(f'reformer.{name}')}\n" for name in names.split())]
    return "\n".join(parts)


def _home(name: str) -> str:
    """Where a name is defined: pages are read from sources."""
    module, _, own = name.rpartition(".")
    value = getattr(import_module(module), own)
    return f"{value.__module__}.{value.__qualname__}"
