"""Kimi on the wire, and nothing else."""
