"""The Nox sessions, one module per concern; they import nox and the standard library only."""
