"""The oldest versions that pyproject.toml allows, as constraints for pip: `make oldest` installs and tests them."""

import re
import tomllib
from pathlib import Path


def oldest(pyproject: Path) -> list[str]:
    """NAME==VERSION for each NAME>=VERSION, of the extras too."""
    project = tomllib.loads(pyproject.read_text())["project"]
    needs = [*project["dependencies"], *(need for extra in project["optional-dependencies"].values() for need in extra)]
    bounds = (re.fullmatch(r"([\w.-]+)>=([\w.]+)", re.split("[;,]", need)[0].strip()) for need in needs)
    return [f"{bound[1]}=={bound[2]}" for bound in bounds if bound]


if __name__ == "__main__":
    print("\n".join(oldest(Path(__file__).parents[1] / "pyproject.toml")))
