"""What `nox --list` shows: the sessions, one module per concern, and nothing else."""
