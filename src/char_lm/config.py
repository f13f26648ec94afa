"""The configuration of a run.

    config = load(RunConfig, Path("configs/char_lm/ci-tiny.yaml"), overrides=["train.epochs=3"])

The JSON Schema of a file is `config.schema.json` beside this module; after a change:

    python -m char_lm.config > src/char_lm/config.schema.json
"""

from pathlib import Path

from pydantic import Field

from gates.configuration import Section
from training import config as configs
from training.project import Settings


class DataConfig(configs.TorchDataConfig):
    """Where the text comes from, and how much of it a run sees.

    Args:
        passages: passages of the training split, and of the validation split, that a run sees;
            null for all. The test split is always whole.
    """

    passages: int | None = Field(gt=0, le=1_000_000_000)


class ModelConfig(Section):
    """The size of the language model.

    Args:
        embedding: how many numbers stand for a symbol.
        width: the size of the LSTM's state.
        layers: LSTMs, each of which reads the one before it.
    """

    embedding: int = Field(gt=0, le=65_536)
    width: int = Field(gt=0, le=65_536)
    layers: int = Field(gt=0, le=1_024)


class RunConfig(configs.TorchConfig):
    """All that a run depends on besides the code."""

    data: DataConfig
    model: ModelConfig


SETTINGS = Settings(package="char_lm", config=RunConfig, configs=Path("configs/char_lm"))

if __name__ == "__main__":
    print(configs.json_schema(RunConfig), end="")
