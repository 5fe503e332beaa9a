"""Links in the UI, by service."""
