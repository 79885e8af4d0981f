"""Parsers for self-hosted models that answer in raw text."""
