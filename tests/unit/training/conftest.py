from tests.unit.my_project.conftest import (
    _global_state,
    checkpoint,
    config,
    config_file,
    data_file,
    held_out_examples,
    prepare,
    refused,
    table,
    trained,
    training_examples,
)

__all__ = [
    "_global_state",
    "checkpoint",
    "config",
    "config_file",
    "data_file",
    "held_out_examples",
    "prepare",
    "refused",
    "table",
    "trained",
    "training_examples",
]
