"""Agents in a terminal."""
