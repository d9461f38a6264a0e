"""`python -m reformer`."""

from reformer.cli.main import start

raise SystemExit(start())
