"""The configuration of a run.

The JSON Schema of a file is `config.schema.json` beside this module; after a change:

    python -m doctor_visits.config > src/doctor_visits/config.schema.json
"""

from pathlib import Path

from pydantic import Field

from gates.configuration import Section
from training import config as configs
from training.project import Settings


class ModelConfig(Section):
    """How the model is boosted; the names are not scikit-learn's where those are abbreviations.

    Args:
        trees: how many there are.
        depth: branches from the first node of a tree to a leaf, at most.
        learning_rate: how much of its correction each tree contributes.
        share: fraction of the examples that each tree is grown on, drawn without replacement.
        leaf_examples: the fewest in a leaf.
        huber_quantile: the quantile of the errors above which they count linearly, not squared; a
            few people see a doctor dozens of times a year.
    """

    trees: int = Field(gt=0, le=10_000)
    depth: int = Field(gt=0, le=32)
    learning_rate: float = Field(gt=0, le=1)
    share: float = Field(gt=0, le=1)
    leaf_examples: int = Field(gt=0, le=1_000_000)
    huber_quantile: float = Field(gt=0, lt=1)


class RunConfig(configs.RunConfig):
    """Everything a run depends on besides the code."""

    model: ModelConfig


SETTINGS = Settings(
    package="doctor_visits", config=RunConfig, configs=Path("configs", "doctor_visits")
)

if __name__ == "__main__":
    print(configs.json_schema(RunConfig), end="")
