"""The configuration of a run.

    config = load(RunConfig, Path("configs/ci-tiny.yaml"), overrides=["train.epochs=3"])

`config.schema.json` beside this module is the JSON Schema of a file; after a change, update it:

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
    """How the model is trained; `training.config` has the options that all projects share.

    Args:
        distortion: strength of the random rotation, scaling, shear and shift in each epoch: 1 is up
            to 10 degrees, 5 %, 0.1 and a quarter of a pixel; 0 turns it off.
        mixup: alpha of the Beta(alpha, alpha) distribution of an image's share in a mix of two; 1
            makes all shares equally likely, 0 turns mixup off.
        noise: standard deviation of the noise added to the pixels, which range from -1 to 1.
    """

    distortion: float = Field(ge=0, le=10)
    mixup: float = Field(ge=0, le=10)
    noise: float = Field(ge=0, le=10)


class RunConfig(configs.TorchConfig):
    """Everything a run depends on besides the code."""

    model: ModelConfig
    train: TrainConfig


SETTINGS = Settings(package="my_project", config=RunConfig, configs=Path("configs"))

if __name__ == "__main__":
    print(configs.json_schema(RunConfig), end="")
