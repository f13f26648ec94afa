"""The code that git hooks run."""
