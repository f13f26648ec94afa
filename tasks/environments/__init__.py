"""Locked, hash-checked environments: uv, the interpreters, the lock."""
