"""Requests to the web go through the configured proxy."""

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
def web_proxy(index: Services, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy, as on a network that allows no direct connections."""
    with proxy({HOST: f"127.0.0.1:{index.server_port}"}) as server:
        monkeypatch.setenv("http_proxy", server.address)
        monkeypatch.setenv("https_proxy", server.address)
        yield server


def test_services_and_the_index_are_queried_through_the_proxy(
    index: Services, web_proxy: Proxy
) -> None:
    package = index.publish("mine", "1.0", "License-Expression: MIT")
    address = f"http://{HOST}/simple"
    assert withdrawn([package], address) == {}
    # Wheels are read by another library, which fetches only the last bytes.
    assert metadata([package], address)[package.key]["License-Expression"] == "MIT"
    asked = {line.partition(f"//{HOST}")[2] for line in web_proxy.asked}
    assert "/simple/mine/" in asked
    assert any(path.endswith(".whl") for path in asked)


def test_a_file_is_downloaded_through_the_proxy(
    index: Services, web_proxy: Proxy, tmp_path: Path
) -> None:
    index.publish("mine", "1.0", "")
    copy = tmp_path / "page"
    download(f"http://{HOST}/simple/mine/", copy)
    assert b"mine-1.0" in copy.read_bytes()
    assert all(HOST in line for line in web_proxy.asked)


Fetch = Callable[[str], object]


@pytest.mark.parametrize(
    "fetch", [services.ask, lambda url: download(url, Path("copy"))], ids=["ask", "download"]
)
def test_https_requests_go_through_the_proxy(
    fetch: Fetch, web_proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GateInputError, match=HOST):
        fetch(f"https://{HOST}/x")
    assert web_proxy.asked[0] == f"CONNECT {HOST}:443"


@pytest.mark.parametrize(
    "fetch", [services.ask, lambda url: download(url, Path("copy"))], ids=["ask", "download"]
)
def test_hosts_in_no_proxy_are_reached_directly(
    fetch: Fetch,
    index: Services,
    web_proxy: Proxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    index.publish("mine", "1.0", "")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    fetch(f"{index.address}/simple/mine/")
    assert web_proxy.asked == []


@pytest.mark.parametrize(
    "fetch", [services.ask, lambda url: download(url, Path("copy"))], ids=["ask", "download"]
)
@pytest.mark.parametrize(
    ("host", "message"),
    [("127.0.0.1:9", "Connection refused"), ("nowhere.invalid", "Name or service not known")],
)
def test_an_unreachable_server_is_not_reported_as_a_missing_file(
    fetch: Fetch, host: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GateInputError, match=host.partition(":")[0]) as raised:
        fetch(f"http://{host}/x.parquet")
    assert message in str(raised.value)
    assert "no such file" not in str(raised.value)
