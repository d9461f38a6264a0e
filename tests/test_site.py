"""The site builds without a warning and without the network; its search finds every flag and every public name."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import reformer
import reformer.models
from reformer.cli.main import VERBS
from reformer.settings import ModelSettings
from reformer.settings.serving import ServerSettings
from reformer.settings.training import TrainingSettings

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("site")
    # a proxy that is not there: what asks for the network fails
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(place)],
        cwd=ROOT,
        env={**os.environ, **nowhere, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return place


def test_the_site(site: Path) -> None:
    found = " ".join(entry["text"] for entry in json.loads((site / "search/search_index.json").read_text())["docs"])
    titles = {entry["title"] for entry in json.loads((site / "search/search_index.json").read_text())["docs"]}
    for verb in VERBS:
        assert f"reformer {verb}" in titles
    for kind in (ModelSettings, TrainingSettings, ServerSettings):
        for name in kind.__dataclass_fields__:
            flag = f"--{name.replace('_', '-')}"
            assert flag in found or name in {"use_cache"}, flag
    for name in (*reformer.__all__, "save_cache", "load_cache", "FrozenCache", "CacheRows", "from_transformers"):
        assert any(re.search(rf"\b{name}\b", title) for title in titles), name
    for page in site.glob("*.html"):
        text = page.read_text()
        assert not re.search(r'(?:src|href)="(?:https?:)?//[^"]*\.(?:js|css|woff2?)', text), page
        for image in re.findall(r'<img[^>]* src="([^"]+)"', text):
            assert image.startswith("data:") or (site / image).exists(), f"{page.name}: {image}"
    assert "从这里开始" in (site / "index.zh.html").read_text()
