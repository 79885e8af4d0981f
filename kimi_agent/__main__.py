"""`python -m kimi_agent` is `kimi-agent`."""

import sys

from .terminal.cli import main

sys.exit(main())
