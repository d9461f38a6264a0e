"""The frame of a page: one file that needs no network, by day and by night, wide and narrow."""

from html import escape

from reformer.report.chart import STYLE

PAGE_STYLE = """
* { box-sizing: border-box; } html { color-scheme: light dark; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 76rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; margin: 0 0 .3rem; overflow-wrap: anywhere; } h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
p.about { color: var(--faint); margin: 0 0 1rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); gap: 1rem; }
.charts svg { width: 100%; height: auto; border: 1px solid var(--grid); border-radius: 8px; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; }
th, td { text-align: left; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid var(--grid); vertical-align: top; }
th { font-weight: 600; } td.differs { font-weight: 600; } code, pre { font: 13px/1.45 ui-monospace, monospace; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; border: 1px solid var(--grid); border-radius: 8px;
  padding: .7rem; margin: .4rem 0 1rem; unicode-bidi: isolate; } pre b { font-weight: 400; color: var(--faint); }
.key { display: inline-block; width: .8rem; height: .8rem; border-radius: 3px; margin-right: .4rem; }
details summary { cursor: pointer; }
"""


def page(title: str, body: str, *, style: str = "", refresh: int = 0, script: str = "") -> str:
    """A whole page; `refresh`: seconds after which it is read again, for what is still going on.

    Its policy forbids all that would be loaded from elsewhere.
    """
    again = f'<meta http-equiv="refresh" content="{refresh}">' if refresh else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        "script-src 'unsafe-inline'; img-src data:\">"
        f"{again}<title>{escape(title)}</title><style>{STYLE}{PAGE_STYLE}{style}</style></head><body>{body}"
        f"{f'<script>{script}</script>' if script else ''}</body></html>\n"
    )


def table(rows: list[list[str]], heads: list[str], differing: bool = False) -> str:
    """A table of texts; `differing`: cells of rows that are not all alike stand out."""
    head = "".join(f"<th scope=col>{escape(cell)}</th>" for cell in heads)
    lines = []
    for row in rows:
        odd = ' class="differs"' if differing and len(set(row[1:])) > 1 else ""
        cells = "".join(f"<td{odd}>{escape(cell)}</td>" for cell in row[1:])
        lines.append(f"<tr><th scope=row>{escape(row[0])}</th>{cells}</tr>")
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
