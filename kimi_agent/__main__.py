"""`python -m kimi_agent` is `kimi-agent`."""

import sys

from .terminal.command.cli import main

sys.exit(main())
