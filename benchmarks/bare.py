"""Lets the library's operations and layers run where there is nothing but PyTorch, triton and numpy.

Importing this stands in for jaxtyping, which only annotates, unless it is installed, and finds the repository's
sources unless the library is.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

if importlib.util.find_spec("jaxtyping") is None:
    stub: Any = ModuleType("jaxtyping")
    stub.Float = stub.Int = stub.Bool = type("Shaped", (), {"__class_getitem__": classmethod(lambda *_: Any)})
    sys.modules["jaxtyping"] = stub
SOURCES = Path(__file__).parents[1] / "src"
if importlib.util.find_spec("reformer") is None:
    sys.path.insert(0, str(SOURCES))
