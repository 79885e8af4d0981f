"""Where a conversation lasts."""
