"""The configuration of a run.

    config = load(RunConfig, Path("configs/ci-tiny.yaml"), overrides=["train.epochs=3"])

The JSON Schema of a file is `config.schema.json` beside this module; after a change:

    python -m my_project.config > src/my_project/config.schema.json
"""

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from gates.configuration import Section
from training import config as configs
from training.project import Settings


class ModelConfig(Section):
    """The size of the Vision Transformer."""

    image_size: int = Field(gt=0, le=65_536)
    channels: int = Field(gt=0, le=65_536)
    classes: int = Field(gt=1, le=1_000_000)
    patch_size: int = Field(gt=0, le=65_536)
    width: int = Field(gt=0, le=65_536)
    depth: int = Field(gt=0, le=1_024)
    heads: int = Field(gt=0, le=65_536)

    @model_validator(mode="after")
    def _divides_evenly(self) -> Self:
        if self.image_size % self.patch_size:
            msg = f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}"
            raise ValueError(msg)
        if self.width % self.heads:
            msg = f"width {self.width} is not a multiple of heads {self.heads}"
            raise ValueError(msg)
        return self


class TrainConfig(configs.TrainConfig):
    """How the model is trained; what every project has is in `training.config`.

    Args:
        distortion: how far images are turned, scaled, sheared and moved at random, each epoch anew:
            1 is up to 10 degrees, 5 %, 0.1 and a quarter of a pixel; 0 is not at all.
        mixup: alpha of the Beta(alpha, alpha) from which the share of an image is drawn when it is
            mixed with another one; 1 is any share alike, 0 mixes nothing.
        noise: standard deviation of the noise that is added to the pixels, which go from -1 to 1.
    """

    distortion: float = Field(ge=0, le=10)
    mixup: float = Field(ge=0, le=10)
    noise: float = Field(ge=0, le=10)


class RunConfig(configs.TorchConfig):
    """All that a run depends on besides the code."""

    model: ModelConfig
    train: TrainConfig


SETTINGS = Settings(package="my_project", config=RunConfig, configs=Path("configs"))

if __name__ == "__main__":
    print(configs.json_schema(RunConfig), end="")
