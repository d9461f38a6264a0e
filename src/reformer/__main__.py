"""`python -m reformer`."""

from reformer.cli.main import main

raise SystemExit(main())
