"""Code shared by all training runs: run folders, exact resume, data, the loop, the commands."""
