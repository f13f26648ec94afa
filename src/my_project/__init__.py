"""The reference project: a small Vision Transformer on handwritten digits."""
