import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from gates.errors import CheckpointError
from gates.evaluation.policy import load_policy
from tasks.project import ROOT
from training import runs

from char_lm.config import SETTINGS, RunConfig
from char_lm.data import Examples
from char_lm.evaluation import predict
from char_lm.learner import METHOD, loss
from char_lm.project import PROJECT


@pytest.fixture(scope="module")
def checkpoint(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    outputs = tmp_path_factory.mktemp("outputs")
    return runs.train(runs.Request(project=PROJECT, config=config, outputs=outputs, run_id="first"))


def test_scores_are_the_loss_in_bits(checkpoint: Path, held_out_examples: Examples) -> None:
    predictions = predict(checkpoint, held_out_examples)
    with torch.no_grad():
        nats = loss(METHOD.model(METHOD.load(checkpoint)), held_out_examples.tensors).double()
    assert set(predictions.scores) == {"bits_per_character"}
    assert predictions.scores["bits_per_character"] == pytest.approx(nats.numpy() / math.log(2))
    assert predictions.labels is None


def test_a_module_is_a_cluster(checkpoint: Path, held_out_examples: Examples) -> None:
    predictions = predict(checkpoint, held_out_examples)
    modules = [name.partition(":")[0] for name in predictions.ids.tolist()]
    assert predictions.clusters is not None
    assert predictions.clusters.tolist() == modules
    assert set(predictions.subgroups) == {"package"}
    assert set(np.unique(predictions.subgroups["package"])) == {"left", "right"}


def test_predictions_name_their_data_and_checkpoint(
    checkpoint: Path, held_out_examples: Examples
) -> None:
    predictions = predict(checkpoint, held_out_examples)
    assert predictions.data_digest == held_out_examples.data_digest
    assert predictions.checkpoint_digest == hashlib.sha256(checkpoint.read_bytes()).hexdigest()


def test_training_again_gives_the_same_model(
    config: RunConfig, checkpoint: Path, tmp_path: Path
) -> None:
    repeated = runs.train(
        runs.Request(project=PROJECT, config=config, outputs=tmp_path, run_id="second")
    )
    assert repeated.read_bytes() == checkpoint.read_bytes()


def test_file_that_is_not_a_checkpoint_is_refused(
    tmp_path: Path, held_out_examples: Examples
) -> None:
    file = tmp_path / "checkpoint.pt"
    file.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        predict(file, held_out_examples)


def test_committed_policy_is_valid() -> None:
    policy = load_policy(ROOT / SETTINGS.policy)
    assert policy.declared_data is not None
    assert policy.declared_data.resolve() == ROOT / "configs" / "data" / "char_lm.json"
