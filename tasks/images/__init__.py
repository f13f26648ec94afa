"""The container image and the OCI registry that it is pushed to."""
