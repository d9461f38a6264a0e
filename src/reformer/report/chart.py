"""Line charts as SVG: of pages, whose style sheet colours them, and alone, for documents."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 460, 250
LEFT, RIGHT, TOP, BOTTOM = 54, 26, 30, 40
COLOURS = 8
"""Colours of lines, in turn."""

STYLE = """
:root { --ink: #1d2129; --paper: #ffffff; --faint: #667085; --grid: #e4e7ec;
  --c0: #1f6feb; --c1: #c2410c; --c2: #15803d; --c3: #9333ea; --c4: #b45309; --c5: #0e7490; --c6: #be185d;
  --c7: #4d5562; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --paper: #12151b; --faint: #98a2b3; --grid: #2a303b;
  --c0: #6ea8fe; --c1: #fb923c; --c2: #4ade80; --c3: #c084fc; --c4: #fbbf24; --c5: #22d3ee; --c6: #f472b6;
  --c7: #aab2c0; } }
.chart { font: 12px system-ui, sans-serif; } .chart text { fill: var(--ink); } .chart .tick { fill: var(--faint); }
.chart .grid { stroke: var(--grid); stroke-width: 1; } .chart .title { font-weight: 600; font-size: 13px; }
.chart path { fill: none; stroke-width: 1.8; stroke-linejoin: round; } .chart .held { stroke-dasharray: 5 3; }
"""
"""What charts look like, by day and by night."""

for _i in range(COLOURS):
    STYLE += f".chart .s{_i} {{ stroke: var(--c{_i}); }} .chart .p{_i} {{ fill: var(--c{_i}); }}\n"


@dataclass(frozen=True)
class Line:
    """A line of a chart; numbers that are not finite leave a gap."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    colour: int = 0
    dashed: bool = False
    errors: Sequence[float] = ()
    """Standard errors, drawn as bars; none unless given."""


def line_chart(
    title: str,
    lines: Sequence[Line],
    x_label: str,
    *,
    log_x: bool = False,
    log_y: bool = False,
    legend: bool = False,
    alone: bool = False,
) -> str:
    """An SVG element; `alone` with the style that pages have otherwise."""
    points = [(x, y) for line in lines for x, y in zip(line.xs, line.ys, strict=True) if _drawn(x, y, log_x, log_y)]
    height = HEIGHT + (18 * len(lines) + 12 if legend else 0)
    label = escape(f"{title}: {len(lines)} lines over {x_label}" if points else f"{title}: nothing yet")
    parts = [
        f'<svg class="chart" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{label}">',
        f"<style>{STYLE}svg {{ background: var(--paper); }}</style>" if alone else "",
        f'<text class="title" x="{LEFT}" y="18">{escape(title)}</text>',
    ]
    if points:
        parts += _drawing(lines, points, x_label, log_x, log_y)
    else:
        parts.append(f'<text class="tick" x="{WIDTH / 2}" y="{HEIGHT / 2}" text-anchor="middle">nothing yet</text>')
    if legend:
        parts += [_entry(line, HEIGHT + 14 + 18 * i) for i, line in enumerate(lines)]
    return "".join([*parts, "</svg>"])


def _drawing(
    lines: Sequence[Line], points: Sequence[tuple[float, float]], x_label: str, log_x: bool, log_y: bool
) -> list[str]:
    """Grid, ticks, lines."""
    xs, ys = zip(*points, strict=True)
    to_x = _Axis(min(xs), max(xs), LEFT, WIDTH - RIGHT, log_x)
    to_y = _Axis(min(ys), max(ys), HEIGHT - BOTTOM, TOP, log_y)
    parts = []
    for value in to_y.ticks(5):
        y = to_y.place(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{number(value)}</text>')
    for value in to_x.ticks(5):
        x = to_x.place(value)
        parts.append(f'<text class="tick" x="{x:.1f}" y="{HEIGHT - 22}" text-anchor="middle">{number(value)}</text>')
    parts.append(
        f'<text class="tick" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 5}" text-anchor="middle">{escape(x_label)}'
        "</text>"
    )
    return parts + [_curve(line, to_x, to_y, log_x, log_y) for line in lines]


def _curve(line: Line, to_x: "_Axis", to_y: "_Axis", log_x: bool, log_y: bool) -> str:
    steps, pen_down, dots = [], False, []
    for x, y in _thinned(line):
        if not _drawn(x, y, log_x, log_y):
            pen_down = False
            continue
        steps.append(f"{'L' if pen_down else 'M'}{to_x.place(x):.1f} {to_y.place(y):.1f}")
        dots.append((to_x.place(x), to_y.place(y)))
        pen_down = True
    held = " held" if line.dashed else ""
    colour = line.colour % COLOURS
    drawn = f'<path class="s{colour}{held}" d="{"".join(steps)}"><title>{escape(line.name)}</title></path>'
    for x, y, error in zip(line.xs, line.ys, line.errors, strict=False):
        if _drawn(x, y, log_x, log_y) and _drawn(x, error, log_x, False):
            low, high = to_y.place(y - error), to_y.place(y + error)
            drawn += f'<path class="s{colour}" d="M{to_x.place(x):.1f} {low:.1f}V{high:.1f}"/>'
    if len(dots) == 1 or line.dashed:
        drawn += "".join(f'<circle class="p{colour}" cx="{x:.1f}" cy="{y:.1f}" r="2.4"/>' for x, y in dots)
    return drawn


def _thinned(line: Line) -> list[tuple[float, float]]:
    """All points, or of many the least and the largest of each few that share a pixel."""
    points = list(zip(line.xs, line.ys, strict=True))
    few = len(points) // WIDTH
    if few < 3:
        return points
    kept: list[tuple[float, float]] = []
    for start in range(0, len(points), few):
        some = points[start : start + few]
        ends = {min(some, key=lambda point: point[1]), max(some, key=lambda point: point[1])}
        kept += sorted(ends) if all(map(math.isfinite, (y for _, y in some))) else some[:1]
    return kept


def _entry(line: Line, y: float) -> str:
    held = " held" if line.dashed else ""
    return (
        f'<path class="s{line.colour % COLOURS}{held}" d="M{LEFT} {y:.1f}h26"/>'
        f'<text x="{LEFT + 34}" y="{y + 4:.1f}">{escape(line.name)}</text>'
    )


class _Axis:
    """From numbers to places."""

    def __init__(self, low: float, high: float, first: float, last: float, log: bool = False) -> None:
        if log:
            low, high = math.log2(low), math.log2(high)
        if high - low < 1e-12 * max(abs(low), abs(high), 1e-9):  # one number: the middle
            low, high = low - max(abs(low), 1.0) * 0.05, high + max(abs(high), 1.0) * 0.05
        self.low, self.high, self.first, self.last, self.log = low, high, first, last, log

    def place(self, value: float) -> float:
        at = math.log2(value) if self.log else value
        return self.first + (at - self.low) / (self.high - self.low) * (self.last - self.first)

    def ticks(self, most: int) -> list[float]:
        """Round numbers within the axis."""
        if self.log:
            step = max(math.ceil((self.high - self.low) / most), 1)
            return [2.0**k for k in range(math.ceil(self.low), math.floor(self.high) + 1, step)]
        rough = (self.high - self.low) / most
        size = 10.0 ** math.floor(math.log10(rough))
        each = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)
        first = math.ceil(self.low / each)
        return [each * i for i in range(first, math.floor(self.high / each) + 1)]


def _drawn(x: float, y: float, log_x: bool, log_y: bool) -> bool:
    return math.isfinite(x) and math.isfinite(y) and (x > 0 or not log_x) and (y > 0 or not log_y)


def number(value: float) -> str:
    """A number as people write it, in few letters; powers of two stay what they are as long as they are short."""
    if value == 0:
        return "0"
    if abs(value) >= 1000 and float(value).is_integer() and math.log2(abs(value)).is_integer() and abs(value) < 1e6:
        return f"{value:,.0f}"
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):.3g}{letter}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
