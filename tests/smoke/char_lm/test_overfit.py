"""The model can memorise one batch, and two controls cannot."""

import dataclasses
import math
from collections import Counter

import pytest
import torch

from training.pytorch import loop
from training.pytorch.outputs import mean_score

from char_lm.config import RunConfig
from char_lm.data import Examples
from char_lm.learner import LEARNER, bits_per_character
from char_lm.model import CharacterModel
from char_lm.vocabulary import SYMBOLS

BATCH = 8
LENGTH = 32  # characters of each passage: enough for this test, and fast
OVERFIT_STEPS, OVERFIT_LR = 150, 3e-2
CONTROL_STEPS = 96
# Training ends between 0.16 and 0.23 with each of five seeds; 3 / 32 of that identifies the passage
# among 8. An untrained model has log2 97 = 6.60.
BITS_BAR = 0.4


def test_one_batch_is_memorised(config: RunConfig, training_examples: Examples) -> None:
    batch = first(training_examples, BATCH)
    model, before = fitted(config, batch, steps=OVERFIT_STEPS, lr=OVERFIT_LR)

    assert before == pytest.approx(math.log2(SYMBOLS), abs=1e-5)
    assert bits_of(model, batch) < BITS_BAR


def test_without_learning_rate_nothing_is_learned(
    config: RunConfig, training_examples: Examples
) -> None:
    batch = first(training_examples, BATCH)
    model, before = fitted(config, batch, steps=OVERFIT_STEPS // 5, lr=0.0)

    assert bits_of(model, batch) == before


def test_shuffled_characters_teach_only_their_frequencies(
    config: RunConfig, training_examples: Examples, held_out_examples: Examples
) -> None:
    ordered, held_out = first(training_examples, 128), first(held_out_examples, 128)
    generator = torch.Generator().manual_seed(0)
    shuffled = torch.stack(
        [row[torch.randperm(LENGTH, generator=generator)] for row in ordered.symbols]
    )
    from_shuffled, _ = fitted(
        config, dataclasses.replace(ordered, symbols=shuffled), steps=CONTROL_STEPS
    )
    from_ordered, _ = fitted(config, ordered, steps=CONTROL_STEPS)

    assert bits_of(from_shuffled, held_out) > 0.97 * entropy(held_out)
    assert bits_of(from_ordered, held_out) < 0.93 * entropy(held_out)


def fitted(
    config: RunConfig, batch: Examples, *, steps: int, lr: float | None = None
) -> tuple[CharacterModel, float]:
    """Take `steps` steps on batches of 8; return the model and its bits per character before."""
    train = config.train.model_copy(
        # model_copy skips validation, which refuses a learning rate of 0.
        update={
            "lr": config.train.lr if lr is None else lr,
            "epochs": steps // math.ceil(len(batch) / BATCH),
            "batch_size": BATCH,
            "weight_decay": 0.0,
        }
    )
    changed = config.model_copy(update={"train": train})
    model = loop.new_model(LEARNER, changed)
    before = bits_of(model, batch)
    loop.fit(loop.new_trainer(model, train), batch, changed, LEARNER)
    assert isinstance(model, CharacterModel)
    return model, before


def bits_of(model: torch.nn.Module, examples: Examples) -> float:
    return mean_score(model, examples, bits_per_character)


def entropy(examples: Examples) -> float:
    """Return the bits per character of an ideal code that knows only character frequencies."""
    counts = Counter(examples.symbols.flatten().tolist())
    return -sum(n / counts.total() * math.log2(n / counts.total()) for n in counts.values())


def first(examples: Examples, count: int) -> Examples:
    """Return the first `LENGTH` characters of the first passages that are long enough."""
    rows = torch.nonzero(examples.symbols[:, LENGTH - 1] >= 0).flatten()[:count]
    return Examples(
        ids=examples.ids[rows],
        symbols=examples.symbols[rows, :LENGTH],
        modules=examples.modules[rows],
        packages=examples.packages[rows],
        data_digest=examples.data_digest,
    )
