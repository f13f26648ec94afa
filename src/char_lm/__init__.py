"""The reference project for text: a small character-level language model on docstrings."""
