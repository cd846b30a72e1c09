"""A short version of tests/stress/api_requests.py: requests made from the OpenAPI document find no server error."""

from pathlib import Path

from epochal.service.security import AccessRules
from epochal.tests.stress.api_requests import populate, try_requests
from epochal.tests.support.servers import serving


def test_requests_from_the_services_own_document(make_pool, tmp_path: Path):
    make_pool(3000)
    make_pool(2000, name="other")
    with serving(tmp_path / "artifacts", rules=AccessRules(rate=1e6, burst=10**6)) as client:
        populate(client)
        statuses = try_requests(client, 60)
        assert len(client.get("/openapi.json")["paths"]) >= 24
    assert statuses[200] > 5
    assert statuses[422] > 5
