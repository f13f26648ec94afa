"""The configuration of a run.

    config = load(RunConfig, Path("configs/char_lm/ci-tiny.yaml"), overrides=["train.epochs=3"])

`config.schema.json` beside this module is the JSON Schema of a file; after a change, update it:

    python -m char_lm.config > src/char_lm/config.schema.json
"""

from pathlib import Path

from pydantic import Field

from gates.configuration import Section
from training import config as configs
from training.project import Settings


class DataConfig(configs.TorchDataConfig):
    """Where the text comes from, and how much of it a run uses.

    Args:
        passages: maximum number of passages used from each of the training and validation splits;
            null for all. The test split is always used completely.
    """

    passages: int | None = Field(gt=0, le=1_000_000_000)


class ModelConfig(Section):
    """The size of the language model.

    Args:
        embedding: size of a symbol's embedding.
        width: size of the LSTM's hidden state.
        layers: number of stacked LSTM layers.
    """

    embedding: int = Field(gt=0, le=65_536)
    width: int = Field(gt=0, le=65_536)
    layers: int = Field(gt=0, le=1_024)


class RunConfig(configs.TorchConfig):
    """Everything a run depends on besides the code."""

    data: DataConfig
    model: ModelConfig


SETTINGS = Settings(package="char_lm", config=RunConfig, configs=Path("configs/char_lm"))

if __name__ == "__main__":
    print(configs.json_schema(RunConfig), end="")
