"""Tells MLflow how a run goes, if the configuration asks for it.

Where it is told follows from MLFLOW_TRACKING_URI, as everywhere with MLflow. The run's own
`metrics.jsonl` has everything already: a server that goes away is told once and stops nothing.
"""

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from gates.configuration import flat
from gates.errors import ConfigError, GateInputError, said_by
from training.config import RunConfig

if TYPE_CHECKING:
    from mlflow import MlflowClient

_TAG = "training.run_id"  # by which a resumed run finds its page again
_OF_PLACE = ("step", "epoch", "ends_epoch")  # where a line is, and no measure

Track = Callable[[Mapping[str, Any]], None]


@contextlib.contextmanager
def tracked(
    config: RunConfig | None, project: str, run_id: str, say: Callable[[str], None]
) -> Iterator[Track]:
    """Give a function that takes each line of metrics.jsonl; it does nothing if none is asked for.

    Args:
        config: its `tracking` says whether; its values become the run's parameters. None in a
            process that is not the first.
        project: its package, the name of MLflow's experiment.
        run_id: the name of the run.
        say: is given a line if the server goes away.

    Raises:
        ConfigError: MLflow is not installed.
        GateInputError: its server cannot be reached at the start.
    """
    if config is None or config.tracking == "none":
        yield lambda _: None
        return
    # Takes seconds to import, and phones home unless told not to.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        from mlflow import MlflowClient  # noqa: PLC0415
        from mlflow.exceptions import MlflowException  # noqa: PLC0415
    except ImportError as error:
        msg = "tracking: mlflow is not installed; install training[mlflow], or say none"
        raise ConfigError(msg) from error
    try:
        client = MlflowClient()
        page = _page_of(client, config, project, run_id)
    except MlflowException as error:
        where = os.environ.get("MLFLOW_TRACKING_URI", "MLflow's default place")
        msg = f"tracking: {where} cannot be used ({said_by(error)}); "
        msg += "set MLFLOW_TRACKING_URI, or tracking: none"
        raise GateInputError(msg) from error
    sender = _Sender(client, page, say)
    try:
        yield sender.take
    except BaseException:
        sender.end("FAILED")
        raise
    sender.end("FINISHED")


class _Sender:
    """Sends the measures of a run an epoch at a time: a request for each step would be slow."""

    def __init__(self, client: "MlflowClient", page: str, say: Callable[[str], None]) -> None:
        self._client = client
        self._page = page
        self._say = say
        self._waiting: list[Any] = []
        self._lost = False

    def take(self, line: Mapping[str, Any]) -> None:
        from mlflow.entities import Metric  # noqa: PLC0415 - loaded by now

        now_ms = int(time.time() * 1000)
        self._waiting += [
            Metric(name, float(value), now_ms, int(line["step"]))
            for name, value in line.items()
            if name not in _OF_PLACE
        ]
        if line["ends_epoch"]:
            self._send()

    def end(self, status: str) -> None:
        self._send()
        self._attempt(lambda: self._client.set_terminated(self._page, status))

    def _send(self) -> None:
        measures, self._waiting = self._waiting, []
        for start in range(0, len(measures), 1000):  # the most that MLflow takes at once
            batch = measures[start : start + 1000]
            self._attempt(functools.partial(self._client.log_batch, self._page, metrics=batch))

    def _attempt(self, call: Callable[[], object]) -> None:
        from mlflow.exceptions import MlflowException  # noqa: PLC0415 - loaded by now

        if self._lost:
            return
        try:
            call()
        except MlflowException as error:
            self._lost = True
            self._say(f"tracking: MLflow was lost ({error}); metrics.jsonl has everything")


def _page_of(client: "MlflowClient", config: RunConfig, project: str, run_id: str) -> str:
    """Return MLflow's id of the run of that name, which is made if there is none."""
    experiment = client.get_experiment_by_name(project)
    place = experiment.experiment_id if experiment else client.create_experiment(project)
    found = client.search_runs([place], filter_string=f"tags.`{_TAG}` = '{run_id}'", max_results=1)
    if found:
        page: str = found[0].info.run_id
        client.update_run(page, status="RUNNING")
        return page
    page = client.create_run(place, run_name=run_id, tags={_TAG: run_id}).info.run_id
    for key, value in flat(config.model_dump()).items():
        client.log_param(page, key, value)
    return page
