from tests.registries import (
    client,
    empty_database,
    messages,
    one_two,
    policy,
    registry,
    run,
    source,
    store,
)

__all__ = [
    "client",
    "empty_database",
    "messages",
    "one_two",
    "policy",
    "registry",
    "run",
    "source",
    "store",
]
