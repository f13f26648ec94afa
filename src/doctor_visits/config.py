"""The configuration of a run.

`config.schema.json` beside this module is the JSON Schema of a file; after a change, update it:

    python -m doctor_visits.config > src/doctor_visits/config.schema.json
"""

from pathlib import Path

from pydantic import Field

from gates.configuration import Section
from training import config as configs
from training.project import Settings


class ModelConfig(Section):
    """The boosted trees; names differ from scikit-learn's where those are abbreviations.

    Args:
        trees: number of trees.
        depth: maximum depth of a tree.
        learning_rate: factor by which the contribution of each tree is scaled.
        share: fraction of the examples that each tree is fitted to, drawn without replacement.
        leaf_examples: minimum number of examples in a leaf.
        huber_quantile: quantile of the errors above which the loss is linear instead of quadratic;
            a few people see a doctor dozens of times a year.
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
