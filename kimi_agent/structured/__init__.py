"""Structure out of text while it arrives: markdown as events, sections and objects, and answers in a given shape."""
