"""Training of gradient-boosted trees with a Huber loss, stored as ONNX."""

from pathlib import Path

import numpy as np
from sklearn.ensemble import GradientBoostingRegressor

from training.one_process import Fitted, OneProcessMethod
from training.onnx import trees
from training.run import Run

from doctor_visits.config import RunConfig
from doctor_visits.data import Examples


class Boosting(OneProcessMethod[RunConfig, Examples]):
    """Trains scikit-learn's `GradientBoostingRegressor` and writes an ONNX file."""

    library = "sklearn"
    checkpoint = "checkpoint.onnx"
    packages = ("scikit-learn", "numpy", "onnx")

    def fit(self, run: Run[RunConfig, Examples]) -> Fitted:
        """Train; the history has an entry for each tree."""
        model = boosted(run.config, run.training)
        validation = run.validation
        errors = (
            np.abs(validation.labels - predicted)
            for predicted in model.staged_predict(validation.features)
        )
        history = [
            {"loss": float(loss), "validation_absolute_error": float(error.mean())}
            for loss, error in zip(model.train_score_, errors, strict=True)
        ]
        content = trees.dump(trees.boosted(model), run.config, run.training.data_digest)
        return Fitted(content=content, history=history)

    def config_of(self, checkpoint: Path) -> RunConfig:
        """Return the configuration that the model in `checkpoint` was trained with."""
        return trees.load(checkpoint, RunConfig).config


def boosted(config: RunConfig, examples: Examples) -> GradientBoostingRegressor:
    """Return a model trained on `examples`."""
    model = GradientBoostingRegressor(
        loss="huber",
        alpha=config.model.huber_quantile,
        n_estimators=config.model.trees,
        max_depth=config.model.depth,
        learning_rate=config.model.learning_rate,
        subsample=config.model.share,
        min_samples_leaf=config.model.leaf_examples,
        random_state=config.seed,
    )
    return model.fit(examples.features, examples.labels)


METHOD = Boosting()
