from tests.registries import (
    client,
    empty_database,
    one_two,
    policy,
    registry,
    run,
    said,
    source,
    store,
)

__all__ = [
    "client",
    "empty_database",
    "one_two",
    "policy",
    "registry",
    "run",
    "said",
    "source",
    "store",
]
