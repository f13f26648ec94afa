"""A project's data: the types of its columns, and the manifest that declares it."""
