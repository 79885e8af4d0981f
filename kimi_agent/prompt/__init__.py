"""What goes into a prompt, and what it costs."""
