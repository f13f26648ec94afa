"""What a model gives for many examples, a part at a time."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from training.pytorch.learner import EVALUATION_BATCH, Batch, Score, TensorExamples
from training.pytorch.processes import Processes


def mean_score(
    model: nn.Module,
    examples: TensorExamples,
    score: Callable[[nn.Module, Batch], Tensor],
    processes: Processes | None = None,
    *,
    batch_size: int = EVALUATION_BATCH,
) -> float:
    """Return the mean of a quantity of each example.

    Args:
        model: in any mode, in which it is left.
        examples: all of them.
        score: the quantity, (rows,), for the model and a batch.
        processes: those among which they are shared; each calls this. This one alone if not given.
        batch_size: examples in one forward pass.
    """
    alone = Processes(rank=0, count=1, device=next(model.parameters()).device)
    processes = processes or alone
    share = range(len(examples))[processes.rank :: processes.count]
    longest = math.ceil(len(examples) / processes.count)
    # As many forward passes everywhere: a sharded model needs every process for each.
    parts = torch.tensor(share, dtype=torch.int64).tensor_split(math.ceil(longest / batch_size))
    was_training = model.training
    model.eval()
    total = torch.zeros((), dtype=torch.float64, device=processes.device)
    with torch.no_grad():
        for part in parts:
            batch = tuple(tensor[part].to(processes.device) for tensor in examples.tensors)
            total += score(model, batch).double().sum()
    model.train(was_training)
    return processes.sum(total).item() / len(examples)


@torch.inference_mode()
def each_score(model: nn.Module, tensors: Batch, score: Score) -> Tensor:
    """Return a quantity of each example in `tensors`, (n_examples,), float64, on the CPU."""
    place = next(model.parameters()).device
    parts = zip(*(tensor.split(score.batch_size) for tensor in tensors), strict=True)
    found = [score.of(model, tuple(tensor.to(place) for tensor in part)) for part in parts]
    return torch.cat(found).double().cpu()


@torch.inference_mode()
def outputs(model: nn.Module, inputs: Tensor) -> Tensor:
    """Return what `model` gives for `inputs` (n_examples, …), float64, on the CPU."""
    place = next(model.parameters()).device
    parts = [model(batch.to(place)).double().cpu() for batch in inputs.split(EVALUATION_BATCH)]
    return torch.cat(parts)
