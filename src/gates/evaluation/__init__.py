"""Whether a candidate is worse than its baseline, from predictions alone."""
