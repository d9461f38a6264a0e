"""Seconds of `reformer inspect` on 16,384 tokens, the size of its page, and what a click and a scroll in it take.

A model of the preset `long`'s size, fresh; milliseconds are the browser's own, of the slowest of 100 clicks and 100
scrolls, from the call to the picture being laid out. Needs chromium and chromedriver.

    python benchmarks/inspect_page.py
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from learning import joined, library
from machine import save

import reformer
from reformer.data.tokenizer import ByteTokenizer

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.report.browser import started

CLICKS = """
let worst = 0;
for (let k = 0; k < 100; k++) {
  const begun = performance.now();
  select((k * 7919) % labels.length);
  text.getBoundingClientRect();
  worst = Math.max(worst, performance.now() - begun);
}
return worst;
"""
SCROLLS = """
let worst = 0;
for (let k = 0; k < 100; k++) {
  const begun = performance.now();
  text.scrollTop = (k * 104729) % (starts.length * LINE);
  draw();
  text.getBoundingClientRect();
  worst = Math.max(worst, performance.now() - begun);
}
return worst;
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.manual_seed(0)
        config = reformer.ReformerConfig(hidden_size=256, num_hidden_layers=4, num_attention_heads=4, vocab_size=259)
        reformer.ReformerForCausalLM(config).save_pretrained(folder)
        ByteTokenizer().save(folder)
        (folder / "text.txt").write_bytes(joined(library()).tobytes()[:16_384])
        command = [sys.executable, "-m", "reformer", "inspect", name, str(folder / "text.txt")]
        begun = time.perf_counter()
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - begun
        page = folder / "inspect.html"
        with started() as browser:
            browser.open(page)
            click, scroll = browser.run(CLICKS), browser.run(SCROLLS)
        row = {
            "tokens": 16_384,
            "seconds": round(seconds, 2),
            "page_mb": round(page.stat().st_size / 1e6, 2),
            "click_ms": round(click, 1),
            "scroll_ms": round(scroll, 1),
        }
    print(row)
    save("inspect_page", [row])


if __name__ == "__main__":
    main()
