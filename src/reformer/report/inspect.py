"""The page that shows what `look` found: a text coloured by bucket, and what each token attends to."""

import base64
import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import Any

import numpy as np

from reformer.report.look import Layer, Numbers
from reformer.report.page import page

STYLE = """
:root { --light: 70%; } @media (prefers-color-scheme: dark) { :root { --light: 40%; } }
.split { display: grid; grid-template-columns: minmax(0, 3fr) minmax(18rem, 2fr); gap: 1rem; }
@media (max-width: 52rem) { .split { grid-template-columns: minmax(0, 1fr); } }
.controls { display: flex; flex-wrap: wrap; gap: .6rem 1rem; margin: .6rem 0; }
select, button { font: inherit; color: inherit; background: var(--paper); border: 1px solid var(--grid);
  border-radius: 6px; padding: .2rem .5rem; }
#text { position: relative; height: 70vh; min-height: 16rem; overflow: auto; border: 1px solid var(--grid);
  border-radius: 8px; }
#text:focus-visible, button:focus-visible, select:focus-visible { outline: 2px solid var(--c0); outline-offset: 1px; }
.line { position: absolute; left: 10px; white-space: pre; height: 22px; line-height: 22px; direction: ltr; }
.t { font: 14px/22px ui-monospace, monospace; cursor: pointer; unicode-bidi: isolate; border-radius: 2px; }
aside p { margin: 0 0 .7rem; overflow-wrap: anywhere; }
.t.on { outline: 2px solid var(--ink); position: relative; z-index: 2; }
.t.match { outline: 2px solid; position: relative; z-index: 1; }
#matches { list-style: none; margin: 0; padding: 0; }
#matches button { display: block; width: 100%; text-align: left; position: relative; margin: 0 0 .35rem;
  overflow: hidden; cursor: pointer; }
.bar { position: absolute; inset: 0 auto 0 0; background: color-mix(in srgb, var(--c1) 18%, transparent); }
.words { display: block; position: relative; font: 13px/1.5 ui-monospace, monospace; white-space: pre; overflow: hidden;
  text-overflow: ellipsis; unicode-bidi: isolate; direction: ltr; }
.words .hit { outline: 2px solid var(--c1); border-radius: 2px; } .words .next { border-bottom: 2px solid var(--c2);
  font-weight: 700; color: var(--c2); }
.far { position: relative; font-size: .8rem; color: var(--faint); }
.bars { display: inline-flex; align-items: flex-end; gap: 1px; height: 32px; }
.bars i { width: 7px; background: var(--c0); }
[hidden] { display: none; }
"""

BUDGET = 18_000_000
"""Bytes of numbers in a page, before they are written as letters."""


def room_for(length: int, heads: int, rounds: int) -> tuple[int, int]:
    """How many matches of a token, and rounds of buckets, a page has room for."""
    wide = 4 if length < 1 << 16 else 6
    choices = [(matches, rounds) for matches in range(8, 1, -1)] + [(2, fewer) for fewer in range(rounds - 1, 0, -1)]
    fitting = ((matches, some) for matches, some in choices if length * heads * (matches * wide + 2 * some) <= BUDGET)
    return next(fitting, (1, 1))


def inspect_page(
    title: str, about: str, labels: Sequence[str], layers: Sequence[Layer], rounds: int | None = None
) -> str:
    """The page, as HTML: `labels` are what is shown of each token; `rounds`: so many of the buckets' alone."""
    small = len(labels) < 1 << 16
    told = {
        "labels": _letters(json.dumps(list(labels)).encode()),
        "selected": len(labels) * 3 // 4,
        "layers": [_packed(layer, small, rounds) for layer in layers],
    }
    boxes = "".join(
        f"<label for={name}>{name.title()} <select id={name}></select></label>" for name in ("layer", "head", "round")
    )
    body = (
        f"<h1>{escape(title)}</h1><p class=about>{escape(about)}</p><div class=controls>{boxes}</div>"
        "<div class=split><div><div id=text tabindex=0 role=listbox "
        'aria-label="The text, token by token: arrows move, a click chooses">'
        "<div id=space></div><div id=lines role=presentation></div></div>"
        '<p class=about id=legend></p></div><aside aria-live=polite aria-label="What the token attends to">'
        "<p id=about></p><ol id=matches></ol><p id=none hidden>It attends to nothing.</p></aside></div>"
        f"<h2>Heads</h2>{''.join(_heads(layer, i) for i, layer in enumerate(layers))}"
        f'<script type="application/json" id=data>{json.dumps(told)}</script>'
    )
    script = files("reformer.report").joinpath("look.js").read_text(encoding="utf-8")
    return page(f"{title}: inspected", body, style=STYLE, script=script)


def _packed(layer: Layer, small: bool, rounds: int | None) -> dict[str, Any]:
    heads = [
        {
            "keys": _numbers(np.where(head.keys < 0, 0xFFFF if small else 0xFFFFFFFF, head.keys), small),
            "weights": _numbers(np.round(head.weights * 65535), True),
            "buckets": [_numbers(one, int(one.max(initial=0)) < 1 << 16) for one in head.buckets[:rounds]],
        }
        for head in layer.heads
    ]
    return {
        "number": layer.number,
        "kind": layer.kind,
        "successors": layer.successors,
        "own": layer.keeps_own,
        "heads": heads,
    }


def _numbers(values: Numbers, small: bool) -> dict[str, str]:
    kind, dtype = ("u16", "<u2") if small else ("u32", "<u4")
    return {"kind": kind, "data": _letters(values.astype(dtype).tobytes())}


def _letters(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _heads(layer: Layer, place: int) -> str:
    """A table of a layer's heads."""
    rows = []
    for i, head in enumerate(layer.heads):
        far = [f"{1 << k:,} tokens or more: {100 * share:.1f} %" for k, share in enumerate(head.distances)]
        full = [("empty" if k == 0 else f"{1 << (k - 1):,} or more") + f": {n:,}" for k, n in enumerate(head.occupancy)]
        cells = (
            f"{100 * head.mass:.1f} %",
            _bars(head.distances, far, "how far back"),
            _bars(head.occupancy, full, "tokens a bucket") if len(head.occupancy) else "",
        )
        rows.append(f"<tr><th scope=row>{i}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    heads = "".join(
        f"<th scope=col>{name}</th>"
        for name in ("head", "of exact attention's mass", "tokens back: 1, 2, 4, 8 …", "tokens a bucket: 0, 1, 2, 4 …")
    )
    return (
        f'<div class=wide data-layer="{place}"><table><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody>'
        "</table></div>"
    )


def _bars(values: Numbers, names: Sequence[str], what: str) -> str:
    most = max(float(values.max(initial=0)), 1e-12)
    bars = "".join(
        f'<i style="height:{max(100 * value / most, 2):.0f}%" title="{escape(name)}"></i>'
        for value, name in zip(values, names, strict=True)
    )
    said = "; ".join(name for value, name in zip(values, names, strict=True) if value > 0)
    return f'<span class=bars role=img aria-label="{escape(f"{what}: {said}")}">{bars}</span>'


def shown(text: str) -> str:
    """What is seen of a token's text: signs that show nothing, or turn the direction of others, get a picture."""
    return "".join(_sign(letter) for letter in text) or "\u00b7"


def _sign(letter: str) -> str:
    code = ord(letter)
    if letter == "\n":
        return "\u23ce"
    if letter == "\t":
        return "\u21e5   "
    if code < 0x20 or code == 0x7F:
        return chr(0x2400 + (code if code < 0x20 else 0x21))
    if letter.isprintable() and not 0x202A <= code <= 0x202E:
        return letter
    return f"\u27e8{code:x}\u27e9"


def about_text(length: int, more: bool, layers: Sequence[Layer]) -> str:
    """A sentence on what was looked at."""
    part = f"The first {length:,} tokens of a longer text" if more else f"{length:,} tokens"
    heads = sum(len(layer.heads) for layer in layers)
    hashed = any(len(head.buckets) for layer in layers for head in layer.heads)
    colours = " A colour is a bucket (by chunks: a chunk) of the chosen layer, head and round." if hashed else ""
    return f"{part}; {heads} heads of {len(layers)} layers.{colours}"
