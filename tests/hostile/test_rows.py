"""Rows of tasks whose fields are missing, of other types or made to do harm."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from reformer.tasks import tasks
from tests.hostile.mutations import FUZZ, harmless, spoilt_json

ROWS: dict[str, list[dict[str, Any]]] = {
    "classify": [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(12)],
    "tag": [{"text": ["two", f"words{i}"], "label": ["A", "B"]} for i in range(12)],
    "qa": [
        {"context": f"it is {i} here", "question": "what?", "answers": {"text": [f"{i}"], "answer_start": [6]}}
        for i in range(12)
    ],
    "lm": [{"text": f"text {i}"} for i in range(12)],
}


@pytest.mark.parametrize("task", ROWS)
def test_spoilt_rows(task: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.json"

    @FUZZ
    @given(spoilt_json(ROWS[task]))
    def check(data: bytes) -> None:
        path.write_bytes(data)
        harmless(lambda: tasks()[task](files=(str(path),), held_out=0.0).read(20, lambda _: None))

    path.write_text(json.dumps(ROWS[task]))
    assert tasks()[task](files=(str(path),), held_out=0.0).read(20, lambda _: None).train
    check()
