"""Scores and outputs of a model for many examples, computed in batches."""

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
    """Return the mean score over all examples.

    Args:
        model: the model; its training or evaluation mode is restored afterwards.
        examples: the examples of all processes together.
        score: returns the score of each example, (rows,), for the model and a batch.
        processes: the processes that share the work, all of which must call this function; None
            for this one alone.
        batch_size: examples in one forward pass.
    """
    alone = Processes(rank=0, count=1, device=next(model.parameters()).device)
    processes = processes or alone
    share = range(len(examples))[processes.rank :: processes.count]
    longest = math.ceil(len(examples) / processes.count)
    # A sharded model needs every process in each forward pass, so each makes the same number.
    batches = torch.tensor(share, dtype=torch.int64).tensor_split(math.ceil(longest / batch_size))
    was_training = model.training
    model.eval()
    total = torch.zeros((), dtype=torch.float64, device=processes.device)
    with torch.no_grad():
        for indices in batches:
            batch = tuple(tensor[indices].to(processes.device) for tensor in examples.tensors)
            total += score(model, batch).double().sum()
    model.train(was_training)
    return processes.sum(total).item() / len(examples)


@torch.inference_mode()
def each_score(model: nn.Module, tensors: Batch, score: Score) -> Tensor:
    """Return the score of each example in `tensors`, (n_examples,), float64, on the CPU."""
    device = next(model.parameters()).device
    batches = zip(*(tensor.split(score.batch_size) for tensor in tensors), strict=True)
    scores = [score.of(model, tuple(tensor.to(device) for tensor in batch)) for batch in batches]
    return torch.cat(scores).double().cpu()


@torch.inference_mode()
def outputs(model: nn.Module, inputs: Tensor) -> Tensor:
    """Return the outputs of `model` for `inputs` (n_examples, …), float64, on the CPU."""
    device = next(model.parameters()).device
    found = [model(batch.to(device)).double().cpu() for batch in inputs.split(EVALUATION_BATCH)]
    return torch.cat(found)
