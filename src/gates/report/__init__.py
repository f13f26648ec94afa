"""Pages for people: the model card."""
