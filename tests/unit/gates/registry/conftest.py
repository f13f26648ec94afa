from tests.registries import empty_database, one_two, policy, registry, run, said, store

__all__ = ["empty_database", "one_two", "policy", "registry", "run", "said", "store"]
