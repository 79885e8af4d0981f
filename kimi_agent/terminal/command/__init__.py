"""The command `kimi-agent`."""
