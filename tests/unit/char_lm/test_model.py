import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from char_lm.config import ModelConfig
from char_lm.model import CharacterModel
from char_lm.vocabulary import PADDING, SYMBOLS

LENGTH = 12


def model_of(layers: int) -> CharacterModel:
    """Return a model whose head is not zero, so that its logits depend on the input."""
    torch.manual_seed(0)
    model = CharacterModel(ModelConfig(embedding=4, width=8, layers=layers))
    torch.nn.init.normal_(model.head.weight)
    return model


@pytest.fixture(scope="module", params=[1, 2])
def model(request: pytest.FixtureRequest) -> CharacterModel:
    return model_of(request.param)


def passages(rows: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows)
    return torch.randint(SYMBOLS, (rows, LENGTH), generator=generator, dtype=torch.int8)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_a_later_character_does_not_change_an_earlier_prediction(draw: st.DataObject) -> None:
    place = draw.draw(st.integers(0, LENGTH - 1))
    symbol = draw.draw(st.integers(PADDING, SYMBOLS - 1))
    model, symbols = model_of(1), passages(2)
    changed = symbols.clone()
    changed[0, place] = symbol
    before, after = model(symbols), model(changed)
    # The prediction of the changed character is made before the model reads it.
    assert torch.equal(before[0, : place + 1], after[0, : place + 1])
    assert torch.equal(before[1], after[1])


def test_an_earlier_character_changes_every_later_prediction(model: CharacterModel) -> None:
    symbols = passages(1)
    changed = symbols.clone()
    changed[0, 3] = (changed[0, 3] + 1) % SYMBOLS
    differs = (model(symbols) != model(changed))[0].any(dim=1)
    assert differs.tolist() == [False] * 4 + [True] * (LENGTH - 4)


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_there_is_a_row_of_logits_for_each_character(model: CharacterModel, rows: int) -> None:
    logits = model(passages(rows))
    assert logits.shape == (rows, LENGTH, SYMBOLS)
    logits.sum().backward()  # a process with an empty share of a batch computes gradients too


def test_an_untrained_model_predicts_uniformly() -> None:
    model = CharacterModel(ModelConfig(embedding=4, width=8, layers=1))
    assert torch.equal(model(passages(3)), torch.zeros(3, LENGTH, SYMBOLS))
