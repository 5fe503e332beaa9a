"""Triggers, by service."""
