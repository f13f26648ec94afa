"""A real MLflow server on loopback, with basic-auth, served artifacts and real PostgreSQL."""

import base64
import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

ADMIN, PASSWORD = "admin", "correct horse battery staple"  # pragma: allowlist secret
READER, READERS = "reader", "reads only, and is refused"
# Importing takes an MLflow server half a minute on two busy cores.
PATIENCE = 180


def postgres_programs() -> Path | None:
    """Return the folder with `initdb` and `pg_ctl`, or None if there is none.

    Debian keeps them off PATH, because several versions may be installed.
    """
    found = shutil.which("initdb")
    if found:
        return Path(found).parent
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return installed[-1].parent if installed else None


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def postgres(programs: Path) -> Iterator[str]:
    """Run PostgreSQL on temporary files; yield the SQLAlchemy URL of a database."""
    # Not in pytest's folder: only root can read it, and PostgreSQL runs as another user.
    with tempfile.TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True) as folder:
        yield from _postgres(programs, Path(folder))


def _postgres(programs: Path, folder: Path) -> Iterator[str]:
    user = _unprivileged()
    if user is not None:
        shutil.chown(folder, user)
    data, port = folder / "data", free_port()

    def run(*command: str) -> None:
        # Log to a file: a server left running would keep a pipe open.
        with (folder / "commands.log").open("ab") as log:
            subprocess.run(command, check=True, user=user, cwd="/", stdout=log, stderr=log)

    run(str(programs / "initdb"), "-D", str(data), "-U", "mlflow", "-A", "trust", "--no-sync")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories=''"
    control = (str(programs / "pg_ctl"), "-D", str(data), "-w")
    run(*control, "-o", options, "-l", str(folder / "log"), "start")
    try:
        yield f"postgresql+psycopg2://mlflow@127.0.0.1:{port}/postgres"
    finally:
        run(*control, "-m", "immediate", "stop")


def _unprivileged() -> str | None:
    """Return a user for PostgreSQL if this is root, because it refuses to run as root."""
    if os.geteuid() != 0:
        return None
    known = {each.pw_name for each in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


class MlflowServer:
    """An MLflow server that can be killed and started again.

    Args:
        database: URL of its database.
        folder: for artifacts, users and settings.
    """

    def __init__(self, database: str, folder: Path) -> None:
        self._database = database
        self._folder = folder
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.address = f"http://127.0.0.1:{self._port}"
        self.artifacts = folder / "artifacts"
        self._settings = folder / "auth.ini"
        self._settings.write_text(
            "[mlflow]\n"
            "default_permission = READ\n"
            f"database_uri = sqlite:///{folder / 'users.db'}\n"
            f"admin_username = {ADMIN}\n"
            f"admin_password = {PASSWORD}\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        )

    def start(self) -> None:
        """Start the server and wait until it answers."""
        program = Path(sys.executable).with_name("mlflow")
        command = [str(program), "server", "--host", "127.0.0.1", "--port", str(self._port)]
        command += ["--workers", "1", "--app-name", "basic-auth", "--serve-artifacts"]
        command += ["--backend-store-uri", self._database]
        command += ["--artifacts-destination", str(self.artifacts)]
        variables = {
            **os.environ,
            "MLFLOW_AUTH_CONFIG_PATH": str(self._settings),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "gone soon",  # pragma: allowlist secret
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        with (self._folder / "server.log").open("ab") as log:
            # A new session, so that its workers can be killed with it.
            self._process = subprocess.Popen(
                command, env=variables, stdout=log, stderr=log, start_new_session=True
            )
        until = time.monotonic() + PATIENCE
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > until:
                log_text = (self._folder / "server.log").read_text()[-2000:]
                msg = f"the server did not start: {log_text}"
                raise AssertionError(msg)
            time.sleep(0.2)

    def kill(self) -> None:
        """Kill the server and its workers, as if the machine had failed."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def add_user(self, name: str, password: str) -> None:
        body = json.dumps({"username": name, "password": password}).encode()
        request = urllib.request.Request(  # noqa: S310 - on loopback
            f"{self.address}/api/2.0/mlflow/users/create",
            data=body,
            headers={"Content-Type": "application/json", **_authorization(ADMIN, PASSWORD)},
        )
        with urllib.request.urlopen(request):  # noqa: S310 - as above
            pass

    def variables(self, user: str | None = ADMIN, password: str = PASSWORD) -> Mapping[str, str]:
        """Return the environment variables that a client needs."""
        credentials = {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password}
        return {
            "MLFLOW_TRACKING_URI": self.address,
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
            "MLFLOW_HTTP_REQUEST_TIMEOUT": str(PATIENCE),
            **({name: value for name, value in credentials.items() if value} if user else {}),
        }

    def _answers(self) -> bool:
        # A health check is not enough: the first request about models opens the databases.
        request = urllib.request.Request(  # noqa: S310 - on loopback
            f"{self.address}/api/2.0/mlflow/registered-models/search",
            headers=_authorization(ADMIN, PASSWORD),
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE):  # noqa: S310 - as above
                return True
        except (urllib.error.URLError, OSError):
            return False


def _authorization(user: str, password: str) -> dict[str, str]:
    encoded = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {"Authorization": f"Basic {encoded}"}
