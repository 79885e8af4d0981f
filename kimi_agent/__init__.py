"""Agents on Kimi: one class is one conversation."""

__version__ = "0.1.0"
