"""Tokens with roles, sizes of bodies, rates, and requests from pages of other sites."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from epochal.common.errors import RequestError
from epochal.service.client.client import Client
from epochal.service.security import AccessRules, Buckets, read_tokens
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
