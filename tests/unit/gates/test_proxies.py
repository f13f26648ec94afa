"""The web is reached by way of the machine's proxy, wherever only that can reach it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gates import services
from gates.errors import GateInputError
from gates.locations import download
from gates.supply.index import metadata, withdrawn
from tests.stand_in_osv import Services, served
from tests.stand_in_proxy import Proxy, proxy

HOST = "only-behind-the-proxy.invalid"
VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def index() -> Iterator[Services]:
    with served([]) as server:
        yield server


@pytest.fixture
def machine(index: Services, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The proxy of a machine that reaches nothing else."""
    with proxy({HOST: f"127.0.0.1:{index.server_port}"}) as server:
        monkeypatch.setenv("http_proxy", server.address)
        monkeypatch.setenv("https_proxy", server.address)
        yield server


def test_services_and_the_index_are_asked_through_the_proxy(
    index: Services, machine: Proxy
) -> None:
    package = index.publish("mine", "1.0", "License-Expression: MIT")
    address = f"http://{HOST}/simple"
    assert withdrawn([package], address) == {}
    # Of a wheel only its end is read, by another library.
    assert metadata([package], address)[package.key]["License-Expression"] == "MIT"
    asked = {line.partition(f"//{HOST}")[2] for line in machine.asked}
    assert "/simple/mine/" in asked
    assert any(path.endswith(".whl") for path in asked)


def test_a_file_is_fetched_through_the_proxy(
    index: Services, machine: Proxy, tmp_path: Path
) -> None:
    index.publish("mine", "1.0", "")
    copy = tmp_path / "page"
    download(f"http://{HOST}/simple/mine/", copy)
    assert b"mine-1.0" in copy.read_bytes()
    assert all(HOST in line for line in machine.asked)


Fetch = Callable[[str], object]


@pytest.mark.parametrize(
    "fetch", [services.ask, lambda url: download(url, Path("copy"))], ids=["ask", "download"]
)
def test_an_address_by_https_is_asked_for_through_the_proxy(
    fetch: Fetch, machine: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GateInputError, match=HOST):
        fetch(f"https://{HOST}/x")
    assert machine.asked[0] == f"CONNECT {HOST}:443"


@pytest.mark.parametrize(
    "fetch", [services.ask, lambda url: download(url, Path("copy"))], ids=["ask", "download"]
)
def test_what_no_proxy_names_is_asked_directly(
    fetch: Fetch,
    index: Services,
    machine: Proxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    index.publish("mine", "1.0", "")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    fetch(f"{index.address}/simple/mine/")
    assert machine.asked == []


@pytest.mark.parametrize(
    "fetch", [services.ask, lambda url: download(url, Path("copy"))], ids=["ask", "download"]
)
@pytest.mark.parametrize(
    ("host", "told"),
    [("127.0.0.1:9", "Connection refused"), ("nowhere.invalid", "Name or service not known")],
)
def test_a_server_that_cannot_be_reached_is_no_missing_file(
    fetch: Fetch, host: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GateInputError, match=host.partition(":")[0]) as raised:
        fetch(f"http://{host}/x.parquet")
    assert told in str(raised.value)
    assert "no such file" not in str(raised.value)
