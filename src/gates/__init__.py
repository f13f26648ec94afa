"""What decides whether a model may be promoted; knows no project."""
