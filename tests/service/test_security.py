"""Tokens with roles, sizes of bodies, rates, and requests from pages of other sites."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.datastructures import Headers

from epochal.common.errors import RequestError
from epochal.service.client.client import Client
from epochal.service.errors import DeniedError, http_status
from epochal.service.security import AccessRules, Buckets, check_origin, check_proxy, read_tokens
from epochal.tests.support.servers import serving


@pytest.mark.slow
def test_tokens_sizes_rates_and_origins(root: Path):
    tokens = {"r" * 16: "read", "w" * 16: "write"}
    rules = AccessRules(tokens, frozenset({"127.0.0.1"}), body_bytes=1000, rate=1000, burst=30)
    with serving(root, rules=rules) as client:

        def ask(method: str, path: str, token: str = "", **how: Any) -> tuple[int, str]:
            headers = {"authorization": f"Bearer {token or '-'}"} | how.pop("headers", {})
            answer = httpx.request(method, client.url + path, headers=headers, **how)
            return answer.status_code, answer.json()["detail"] if answer.status_code >= 400 else ""

        assert ask("GET", "/artifacts")[0] == 401
        assert ask("GET", "/artifacts", "r" * 15)[0] == 401
        assert ask("GET", "/artifacts", "r" * 16)[0] == 200
        assert ask("POST", "/documents/exposures", "r" * 16, json={"text": "x"})[0] == 404
        assert ask("POST", "/limits", "r" * 16, json={"kind": "tokens", "cap": 1}) == (403, "this token may only read")
        assert ask("POST", "/limits", "w" * 16, json={"kind": "tokens", "cap": 1})[0] == 200
        assert ask("POST", "/limits", "w" * 16, content=b" " * 1001)[0] == 413
        assert ask("POST", "/limits", "w" * 16, content=(b" " * 600 for _ in range(2)))[0] == 413
        assert ask("GET", "/", headers={"host": "evil.example"}, follow_redirects=False)[0] == 403
        assert ask("GET", "/artifacts", "r" * 16, headers={"origin": "http://evil.example"})[0] == 403
        assert Client(client.url, "w" * 16).get("/artifacts")["artifacts"]
    buckets = Buckets(10, 2)
    assert [buckets.take("a") > 0 for _ in range(3)] == [False, False, True]
    assert buckets.take("b") == 0
    assert read_tokens(None, {"EPOCHAL_TOKENS": f"read:{'r' * 16}, write:{'w' * 16}"}) == tokens
    with pytest.raises(RequestError, match="entry 1 must be a role"):
        read_tokens(None, {"EPOCHAL_TOKENS": "read:short"})


PAGE_LINK = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/runs", {}, 200),
        ("/runs", {"sec-fetch-site": "same-origin"}, 200),
        ("/runs", {"sec-fetch-site": "none"}, 200),
        ("/runs", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, 403),
        ("/runs", {"sec-fetch-site": "same-site"}, 403),  # another port of this machine
        ("/runs", PAGE_LINK, 403),
        ("/runs", {"origin": "null"}, 403),
        ("/", PAGE_LINK, 200),
        ("/", PAGE_LINK | {"sec-fetch-dest": "iframe"}, 403),
        ("/", PAGE_LINK | {"origin": "http://evil.example"}, 403),
    ],
)
def test_requests_for_pages_of_other_sites(path: str, headers: dict[str, str], status: int):
    refusal = None
    try:
        check_origin(AccessRules(), path, Headers({"host": "127.0.0.1:8642"} | headers))
    except DeniedError as error:
        refusal = http_status(error)
    assert (refusal or 200) == status


def test_a_page_of_another_site_reads_nothing_over_http(root: Path):
    with serving(root) as client:
        assert httpx.get(f"{client.url}/runs", headers={"sec-fetch-site": "cross-site"}).status_code == 403


@pytest.mark.parametrize(("proxies", "last"), [((), 429), (("127.0.0.1",), 200), (("10.0.0.0/8",), 429)])
def test_who_a_client_is_only_named_proxies_say(proxies: tuple[str, ...], last: int, tmp_path: Path):
    rules = AccessRules(rate=0.001, burst=4)
    with serving(tmp_path, rules=rules, proxies=proxies) as client:
        for number in range(6):
            answer = httpx.get(f"{client.url}/health", headers={"x-forwarded-for": f"10.1.1.{number}"})
        assert answer.status_code == last


@pytest.mark.parametrize(("text", "good"), [("10.0.0.7", True), ("fd00::/8", True), ("*", False), ("proxy.lan", False)])
def test_proxies_are_addresses(text: str, good: bool):
    if good:
        assert check_proxy(text) == text
    else:
        with pytest.raises(RequestError, match="--proxy"):
            check_proxy(text)


def test_one_variable_holds_a_servers_tokens_and_a_clients():
    both = {"EPOCHAL_TOKENS": f"write:{'w' * 16},https://other.example:8642={'o' * 16}"}
    assert read_tokens(None, both) == {"w" * 16: "write"}
