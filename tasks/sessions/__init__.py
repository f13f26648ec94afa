"""The sessions that `nox --list` shows, one module per concern."""
