"""Where a model comes from: provenance, and the search through it."""
