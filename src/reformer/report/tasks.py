"""Scores of a task as text and as JSON, and answers as lines of JSON."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reformer.data.task import Result
from reformer.errors import not_written


def result_as_json(model: str, task: str, result: Result) -> str:
    """One object."""
    return json.dumps(
        {"model": model, "task": task, "rows": len(result.answers), **result.scores, "notes": result.notes},
        ensure_ascii=False,
    )


def result_as_text(result: Result) -> str:
    """A line each."""
    scores = {name: f"{value:.{2 if name in result.notes else 4}f}" for name, value in result.scores.items()}
    lines = {"rows": f"{len(result.answers):,}", **scores}
    lines |= {f"{name}, computed with": value for name, value in result.notes.items()}
    width = max(map(len, lines))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines.items())


def write_answers(path: Path, answers: Sequence[Any]) -> None:
    """One JSON value a line, in the order of the rows. Raises as `not_written` says."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise not_written(error, f"answers={path} cannot be written ({error.strerror}); choose another place") from None
