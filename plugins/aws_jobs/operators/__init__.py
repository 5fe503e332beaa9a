"""Operators, by service."""
