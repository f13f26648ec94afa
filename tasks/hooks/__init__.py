"""Checks that the git hooks run."""
