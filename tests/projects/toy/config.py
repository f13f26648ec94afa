"""The configuration of a run."""

from pathlib import Path

from pydantic import Field

from gates.configuration import Section
from training import config as configs
from training.project import Settings


class ModelConfig(Section):
    """The size of the network."""

    pixels: int = Field(gt=0, le=65_536)
    classes: int = Field(gt=1, le=1_000)
    width: int = Field(gt=0, le=65_536)
    depth: int = Field(gt=0, le=1_024)


class TrainConfig(configs.TrainConfig):
    """How the network is trained.

    Args:
        mix: the share of another image mixed into each image, which keeps its label.
        noise: standard deviation of the noise added to the pixels, which are from 0 to 1.
    """

    mix: float = Field(ge=0, le=1)
    noise: float = Field(ge=0, le=10)


class RunConfig(configs.TorchConfig):
    """Everything that a run depends on besides the code."""

    model: ModelConfig
    train: TrainConfig


SETTINGS = Settings(package="toy", config=RunConfig, configs=Path("configs"))
