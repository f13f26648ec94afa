"""The container image for CI jobs, and the OCI registry that it is pushed to."""
