"""The pictures of `docs/worth.md`, from what the scripts of this folder measured.

python -m worth.plots
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine import RESULTS

from reformer.report.chart import Line, line_chart
from worth.tables import SIZE, Lines, context_bits, induction_lines, recall_lines, rows_of, with_error

Chart = dict[str, Any]


def language() -> Chart:
    """Bits by steps, of the size with most runs."""
    rows = [row for row in rows_of("language") if row["seed"] == 0]
    sizes = [tuple(row[name] for name in SIZE) for row in rows]
    most = max(sizes, key=sizes.count)
    best: dict[str, Any] = {}
    for row, size in zip(rows, sizes, strict=True):
        end = str(row["steps"])
        if size == most and row["bits"][end] < best.get(row["variant"], row)["bits"][end] + 1e-9:
            best[row["variant"]] = row
    ordered = sorted(best.items(), key=lambda item: item[1]["bits"][str(item[1]["steps"])])
    lines = [
        Line(variant, [int(step) for step in row["bits"]], list(row["bits"].values()), i)
        for i, (variant, row) in enumerate(ordered)
    ]
    corpus, layers, width, length, _ = most
    title = f"bits per byte: {corpus}, {layers} layers of {width}, {length:,} tokens"
    return {"title": title, "lines": lines, "x_label": "steps"}


def context() -> Chart:
    """Bits by what stands in front, on code; the models of the preset `demo` are in the table alone."""
    lines = []
    shown = {reader: bits for reader, bits in context_bits()["code"].items() if "demo" not in reader}
    for i, (reader, bits) in enumerate(shown.items()):
        ys, errors = zip(*(with_error(bits[context]) for context in sorted(bits)), strict=True)
        lines.append(Line(reader, sorted(bits), list(ys), i, errors=list(errors)))
    title = "bits per byte of the same 64 blocks of unseen code"
    return {"title": title, "lines": lines, "x_label": "bytes in front", "log_x": True}


def induction() -> Chart:
    """Accuracy by length, trained at 256."""
    named = {f"{task}: {name}": one for task in ("token", "pieces") for name, one in induction_lines(task).items()}
    title = "accuracy of induction, trained at 256 tokens"
    return {"title": title, "lines": accuracies(named), "x_label": "length", "log_x": True}


def recall() -> Chart:
    """Accuracy by length."""
    lines = accuracies(recall_lines())
    title = "accuracy of associative recall"
    return {"title": title, "lines": lines, "x_label": "length, with 4 to 1,024 pairs", "log_x": True}


def accuracies(named: Lines) -> list[Line]:
    return [
        Line(name, [one["length"] for one in measured], [one["accuracy"] for one in measured], i)
        for i, (name, measured) in enumerate(named.items())
    ]


def duplication() -> Chart:
    """Percent by the rounds of evaluation, beside the paper's."""
    from worth.duplication import PAPER, ROUNDS

    rows = [row for row in rows_of("duplication") if (row["rule"], row["values"]) == ("bucket", "successor")]
    names = [name for name in ROUNDS if name != "full"]
    xs, lines = [ROUNDS[name] for name in names], []
    for i, trained in enumerate(dict.fromkeys(row["trained"] for row in rows)):
        own = [row["evaluated"] for row in rows if row["trained"] == trained]
        means = [sum(one[how] for one in own) / len(own) for how in names]
        paper = dict(zip(ROUNDS, PAPER[trained], strict=True))
        lines.append(Line(f"trained with {trained}", xs, means, i))
        lines.append(Line(f"the paper's, {trained}", xs, [paper[name] for name in names], i, dashed=True))
    title = "percent right, duplication (table 2 of the paper)"
    return {"title": title, "lines": lines, "x_label": "rounds in evaluation", "log_x": True}


DRAWN: dict[str, Callable[[], Chart]] = {
    one.__name__: one for one in (language, context, induction, recall, duplication)
}


def draw(claim: str, folder: Path) -> Path | None:
    """The picture of a claim as SVG, if something was measured."""
    if not rows_of(claim):
        return None
    path = folder / f"worth_{claim}.svg"
    path.write_text(line_chart(**DRAWN[claim](), legend=True, alone=True), encoding="utf-8")
    return path


if __name__ == "__main__":
    for name in DRAWN:
        print(draw(name, RESULTS))
