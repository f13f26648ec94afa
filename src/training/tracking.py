"""Sends a run's metrics to MLflow, if the configuration asks for it.

MLFLOW_TRACKING_URI names the server, as usual with MLflow. The run's `metrics.jsonl` has
everything already, so a lost connection is reported once and does not stop training.
"""

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from gates.configuration import flat
from gates.errors import ConfigError, GateInputError, describe
from training.config import RunConfig

if TYPE_CHECKING:
    from mlflow import MlflowClient

_TAG = "training.run_id"  # a resumed run finds its MLflow run by this tag
_NOT_METRICS = ("step", "epoch", "ends_epoch")  # keys of metrics.jsonl that give the position

Track = Callable[[Mapping[str, Any]], None]


@contextlib.contextmanager
def tracked(
    config: RunConfig | None, project: str, run_id: str, say: Callable[[str], None]
) -> Iterator[Track]:
    """Yield a function to call with each line of metrics.jsonl; it does nothing without tracking.

    Args:
        config: `tracking` turns tracking on; all values become parameters of the MLflow run. None
            in all processes but the first.
        project: the project's package, which names the MLflow experiment.
        run_id: the ID of the run.
        say: called with a message if the connection is lost.

    Raises:
        ConfigError: MLflow is not installed.
        GateInputError: the server cannot be reached at the start.
    """
    if config is None or config.tracking == "none":
        yield lambda _: None
        return
    # MLflow takes seconds to import, and sends telemetry unless disabled.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        from mlflow import MlflowClient  # noqa: PLC0415
        from mlflow.exceptions import MlflowException  # noqa: PLC0415
    except ImportError as error:
        msg = "tracking: mlflow is not installed; install training[mlflow], or set tracking: none"
        raise ConfigError(msg) from error
    try:
        client = MlflowClient()
        mlflow_id = _mlflow_run(client, config, project, run_id)
    except MlflowException as error:
        where = os.environ.get("MLFLOW_TRACKING_URI", "MLflow's default location")
        msg = f"tracking: {where} cannot be used ({describe(error)}); "
        msg += "set MLFLOW_TRACKING_URI, or tracking: none"
        raise GateInputError(msg) from error
    sender = _Sender(client, mlflow_id, say)
    try:
        yield sender.take
    except BaseException:
        sender.end("FAILED")
        raise
    sender.end("FINISHED")


class _Sender:
    """Sends a run's metrics once per epoch: a request for each step would be slow."""

    def __init__(self, client: "MlflowClient", mlflow_id: str, say: Callable[[str], None]) -> None:
        self._client = client
        self._mlflow_id = mlflow_id
        self._say = say
        self._waiting: list[Any] = []
        self._lost = False

    def take(self, line: Mapping[str, Any]) -> None:
        from mlflow.entities import Metric  # noqa: PLC0415 - already loaded

        now_ms = int(time.time() * 1000)
        self._waiting += [
            Metric(name, float(value), now_ms, int(line["step"]))
            for name, value in line.items()
            if name not in _NOT_METRICS
        ]
        if line["ends_epoch"]:
            self._send()

    def end(self, status: str) -> None:
        self._send()
        self._attempt(lambda: self._client.set_terminated(self._mlflow_id, status))

    def _send(self) -> None:
        metrics, self._waiting = self._waiting, []
        for start in range(0, len(metrics), 1000):  # MLflow's limit for a request
            batch = metrics[start : start + 1000]
            self._attempt(functools.partial(self._client.log_batch, self._mlflow_id, metrics=batch))

    def _attempt(self, call: Callable[[], object]) -> None:
        from mlflow.exceptions import MlflowException  # noqa: PLC0415 - already loaded

        if self._lost:
            return
        try:
            call()
        except MlflowException as error:
            self._lost = True
            self._say(f"tracking: lost MLflow ({error}); metrics.jsonl has everything")


def _mlflow_run(client: "MlflowClient", config: RunConfig, project: str, run_id: str) -> str:
    """Return the ID of the MLflow run for `run_id`, which is created if there is none."""
    experiment = client.get_experiment_by_name(project)
    home = experiment.experiment_id if experiment else client.create_experiment(project)
    found = client.search_runs([home], filter_string=f"tags.`{_TAG}` = '{run_id}'", max_results=1)
    if found:
        mlflow_id: str = found[0].info.run_id
        client.update_run(mlflow_id, status="RUNNING")
        return mlflow_id
    mlflow_id = client.create_run(home, run_name=run_id, tags={_TAG: run_id}).info.run_id
    for key, value in flat(config.model_dump()).items():
        client.log_param(mlflow_id, key, value)
    return mlflow_id
