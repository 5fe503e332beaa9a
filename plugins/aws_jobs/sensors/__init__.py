"""Sensors, by service."""
