"""Decides from predictions alone whether a candidate is worse than its baseline."""
