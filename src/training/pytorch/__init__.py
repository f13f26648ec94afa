"""Training with torch: the loop, checkpoints, snapshots, processes; needs the extra `torch`."""
