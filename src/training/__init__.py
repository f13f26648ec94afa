"""What every training run shares: run folders, exact resume, data, the loop, the commands."""
