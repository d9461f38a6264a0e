"""Every decimal number that a page shows is in a committed result."""

import bisect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))]
UNITS = (1, 1e3, 1e-3, 1e-6, 2**10, 2**20, 2**30, 100, 0.01)
"""What a page may show a number in: milliseconds, MiB, percent."""

DERIVED = {"docs/defaults.md"}
"""A page of means of seeds and numbers at equal time, which `benchmarks/learning_table.py` prints."""


def numbers_in(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        for each in value.values():
            yield from numbers_in(each)
    elif isinstance(value, list):
        for each in value:
            yield from numbers_in(each)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


@pytest.fixture(scope="module")
def measured() -> list[float]:
    return sorted({number for path in RESULTS.glob("*.json") for number in numbers_in(json.loads(path.read_text()))})


def shown_in(page: str) -> list[str]:
    """Decimal numbers of a page's text, without code, links and versions; `test_worth.py` holds tables of worth.md."""
    text = re.sub(r"```.*?```|`[^`]*`", "", (ROOT / page).read_text(), flags=re.DOTALL)
    text = re.sub(r"^\|.*$", "", text, flags=re.MULTILINE) if page == "docs/worth.md" else text
    text = re.sub(r"\]\([^)]*\)|arXiv [\d.]+", "", text)
    text = re.sub(r"(?:PyTorch|Python|transformers|triton|torch)(?: from)? [\d.]+(?: (?:to|or) [\d.]+)?", "", text)
    return re.findall(r"(?<![\w.])\d[\d,]*\.\d+(?![\w.])", text)


def is_measured(shown: str, measured: list[float]) -> bool:
    number, half = float(shown.replace(",", "")), 0.51 * 10.0 ** -len(shown.partition(".")[2])
    for unit in UNITS:
        at = bisect.bisect_left(measured, (number - half) * unit)
        if at < len(measured) and measured[at] <= (number + half) * unit:
            return True
    return False


@pytest.mark.parametrize("page", [page for page in PAGES if page not in DERIVED])
def test_numbers_of_a_page_were_measured(page: str, measured: list[float]) -> None:
    known = shown_in("docs/defaults.md")
    assert [shown for shown in shown_in(page) if shown not in known and not is_measured(shown, measured)] == []


def test_it_would_tell(measured: list[float]) -> None:
    assert not is_measured("731.94517", measured)
    assert shown_in("docs/measured.md")
