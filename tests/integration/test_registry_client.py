"""The tests of the pipeline once more: by the tables, and by MLflow's client, on the same file."""

from tests.unit.gates.registry.test_commands import *  # noqa: F403 - the tests, and their fixtures
from tests.unit.gates.registry.test_pipeline import *  # noqa: F403
