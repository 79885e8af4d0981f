"""The chat: what is asked, answered and commanded."""
