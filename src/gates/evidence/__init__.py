"""The origin of a model: provenance statements, and searching them."""
