"""Training with PyTorch: the loop, checkpoints, snapshots, processes; needs the extra `torch`."""
