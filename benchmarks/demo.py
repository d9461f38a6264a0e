"""`make demo` as a benchmark: bits per byte before and after, beside those of byte models, and seconds in all."""

import re
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))


def main() -> None:
    from machine import save

    started = time.perf_counter()
    command = [sys.executable, str(Path(__file__).parents[1] / "examples" / "demo.py"), *sys.argv[1:]]
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    seconds = time.perf_counter() - started
    print(printed)
    bits = re.findall(r"^  (\S.*?) +(\d+\.\d{3})$", printed, re.MULTILINE)
    save("demo", [{"model": name, "bits_per_byte": float(value)} for name, value in bits], seconds=seconds)


if __name__ == "__main__":
    main()
