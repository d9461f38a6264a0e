"""Which results that README and docs name were measured on another state of `src/`: a list to choose from, no failure.

python benchmarks/stale.py
"""

import json
import re
import subprocess
from typing import Any

from machine import RESULTS

ROOT = RESULTS.parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))


def named() -> dict[str, list[str]]:
    """Results by their names, and the pages that name their scripts."""
    found: dict[str, list[str]] = {}
    for page in PAGES:
        for name in sorted(set(re.findall(r"benchmarks/(?:results/)?(\w+)\.(?:py|json)", page.read_text()))):
            if (RESULTS / f"{name}.json").exists():
                found.setdefault(name, []).append(page.name)
    return found


def commits(result: dict[str, Any]) -> set[str]:
    """The commits that a result, or its rows, were measured at."""
    rows = result["rows"] if isinstance(result["rows"], list) else []
    of_rows = {row["commit"] for row in rows if isinstance(row, dict) and "commit" in row}
    return of_rows or {result.get("commit", "an unknown commit")}


def changed_since(commit: str) -> str:
    """How much of `src/` has changed since a commit, in words; nothing where it is the same."""
    diff = ["git", "-C", str(ROOT), "diff", "--shortstat", commit.rstrip("+"), "--", "src"]
    done = subprocess.run(diff, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else "not to be told"


def main() -> None:
    for name, pages in sorted(named().items()):
        result = json.loads((RESULTS / f"{name}.json").read_text())
        for commit in sorted(commits(result)):
            if changed := changed_since(commit):
                print(f"{name}.json ({', '.join(pages)}), {result['date']}, {commit}: {changed}")


if __name__ == "__main__":
    main()
