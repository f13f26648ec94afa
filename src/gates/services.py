"""Requests to services over HTTP.

A missing answer is an error, never "nothing found".
"""

import concurrent.futures
import functools
import json
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, TypeVar

import urllib3

from gates.errors import GateInputError

_TIMEOUT_S = 10
_CONCURRENT = 16

Item = TypeVar("Item")
Result = TypeVar("Result")


class UnreachableError(GateInputError):
    """A service gave no usable answer."""


_RETRIES = urllib3.Retry(
    total=3,
    backoff_factor=0.2,  # seconds, doubled each time
    status_forcelist=(429, 500, 502, 503, 504),
    allowed_methods=None,  # repeating a request is safe, even a POST
)
_SETTINGS: dict[str, Any] = {
    "maxsize": _CONCURRENT,
    "timeout": urllib3.Timeout(_TIMEOUT_S),
    "retries": _RETRIES,
}


def ask(url: str, *, body: object = None, headers: Mapping[str, str] | None = None) -> bytes:
    """Return the response of `url` to a GET, or to a POST of `body` as JSON.

    Raises:
        GateInputError: `url` is not a web address.
        UnreachableError: the service did not answer, or answered with an error.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        msg = f"{url}: not an address that begins with https://"
        raise GateInputError(msg)
    method = "GET" if body is None else "POST"
    try:
        answer = _connections(_proxy_of(parts)).request(method, url, json=body, headers=headers)
    except (urllib3.exceptions.HTTPError, OSError) as error:
        reason = getattr(error, "reason", None) or error
        through = " through the proxy" if _proxy_of(parts) else ""
        msg = f"{parts.hostname}: did not answer{through} ({reason})"
        raise UnreachableError(msg) from error
    if answer.status != HTTPStatus.OK:
        msg = f"{parts.hostname}: answered {answer.status} to {parts.path}"
        raise UnreachableError(msg)
    return answer.data


def _proxy_of(parts: urllib.parse.SplitResult) -> str | None:
    """Return the proxy for an address, from HTTP_PROXY and the like; None for a direct one."""
    if urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    proxies = urllib.request.getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")


@functools.cache
def _connections(proxy: str | None) -> urllib3.PoolManager:
    if proxy is None:
        return urllib3.PoolManager(**_SETTINGS)
    url = urllib3.util.parse_url(proxy if "://" in proxy else f"http://{proxy}")
    headers = urllib3.make_headers(proxy_basic_auth=url.auth) if url.auth else None
    return urllib3.ProxyManager(url.url, proxy_headers=headers, **_SETTINGS)


def ask_json(url: str, *, body: object = None) -> Any:
    """Return the JSON that `url` answers with.

    Raises:
        UnreachableError: the service did not answer, or not in JSON.
    """
    try:
        return json.loads(ask(url, body=body))
    except ValueError as error:
        msg = f"{url}: answered, but not in JSON ({error})"
        raise UnreachableError(msg) from error


def for_each(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Return the result of `function` for each of `items`, in order, several at a time."""
    with concurrent.futures.ThreadPoolExecutor(_CONCURRENT) as threads:
        return list(threads.map(function, items))
