"""Doubles of Kimi for tests and demos. Not imported by the top level."""
