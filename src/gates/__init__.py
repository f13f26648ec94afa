"""Gates that decide whether a model may be promoted; they depend on no project."""
