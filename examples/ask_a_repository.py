"""Train on a folder of source code, serve the model with the folder as its prompt, and have it go on with code.

    python examples/ask_a_repository.py src/ --out runs/repository

The folder is read once, at the start; each question costs its own tokens. Without a folder it takes Python's `json`,
`email` and `http` packages. Needs the extra `serve`, and `openai` for the client.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import openai

QUESTIONS = ("def __init__(self, ", "import ", "class ")


def sources(folders: list[Path]) -> str:
    """All files of folders, each behind its name."""
    files = [file for folder in folders for file in sorted(folder.rglob("*.py"))]
    return "".join(f"# {file.name}\n{file.read_text(errors='replace')}\n" for file in files)


@contextmanager
def serving(model: Path, prompt: Path) -> Iterator[str]:
    """A server of the model that has read the prompt; its address."""
    command = [sys.executable, "-m", "reformer", "serve", str(model), "--port", "0", "--prompt-file", str(prompt)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            for line in server.stderr:
                print(line, end="", file=sys.stderr)
                if found := re.search(r"http://\S+/v1", line):
                    yield found[0]
                    return
            raise SystemExit("the server did not start")
        finally:
            server.terminate()
            server.stderr.read()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="*")
    parser.add_argument("--out", type=Path, default=Path("runs/repository"))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--max-tokens", type=int, default=120)
    parser.add_argument("--most-bytes", type=int, default=1 << 18, help="of the prompt")
    arguments = parser.parse_args()
    folders = arguments.folders or [Path(json.__file__).parents[1] / name for name in ("json", "email", "http")]

    if not (arguments.out / "model.safetensors").exists():
        train = [sys.executable, "-m", "reformer", "train", *map(str, folders), "--preset", "demo"]
        subprocess.run([*train, "--out", str(arguments.out), "--steps", str(arguments.steps)], check=True)
    text = sources(folders)[-arguments.most_bytes :]
    prompt = arguments.out / "prompt.txt"
    prompt.write_text(text)

    with serving(arguments.out, prompt) as address, openai.OpenAI(base_url=address, api_key="none") as client:
        name = client.models.list().data[0].id
        for question in QUESTIONS:
            begun = time.perf_counter()
            stream = client.completions.create(
                model=name,
                prompt=text + question,
                max_tokens=arguments.max_tokens,
                temperature=0.6,
                seed=1,
                stop="\n\n",
                stream=True,
                stream_options={"include_usage": True},
                extra_body={"dry_multiplier": 1},
            )
            first, answer = 0.0, ""
            for piece in stream:
                first = first or time.perf_counter() - begun
                answer += piece.choices[0].text if piece.choices else ""
                usage = piece.usage
            known = usage.prompt_tokens_details.cached_tokens
            print(f"--- {usage.prompt_tokens:,} tokens, {known:,} of them known; the first after {1e3 * first:.0f} ms")
            print(question + answer)


if __name__ == "__main__":
    main()
