"""Settings laid over small ones."""

from typing import Any

from reformer.settings.run_file import lay


def over(small: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Both, those of the first that go with another rule left out."""
    return lay({"model": small}, {"model": settings}, lambda _: None)["model"]
