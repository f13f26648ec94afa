"""Human-readable reports: the model card."""
