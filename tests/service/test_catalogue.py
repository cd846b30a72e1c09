"""The catalogue: names that move, and folders that requests cannot reach."""

from pathlib import Path

import pytest

from epochal.service.client.client import Client
from epochal.service.service import Service
from epochal.tests.support.servers import serving, until
from epochal.tests.support.service_calls import refused


@pytest.mark.slow
def test_a_name_moves_and_a_fingerprint_does_not(client: Client, root: Path, make_pool):
    before = client.get("/artifacts/toy")
    (root / "pools" / "toy").rename(root / "pools" / "older")
    make_pool(4000)
    service_sees_it(client, 4000)
    now = client.get("/artifacts/toy")
    assert [h["fingerprint"] for h in now["history"]] == [before["fingerprint"], now["fingerprint"]]
    assert client.get(f"/artifacts/{before['fingerprint']}")["manifest"] == before["manifest"]
    tokens = [a["tokens"] for a in client.get("/artifacts", name="to", least_tokens=3500)["artifacts"]]
    assert tokens == [4000]
    assert len(client.get("/artifacts", fingerprint=before["fingerprint"][:5], tokenizer="byt")["artifacts"]) == 1
    assert client.get("/artifacts", name="o%")["artifacts"] == []


def service_sees_it(client: Client, tokens: int) -> None:
    """Return when the service has looked at its folder again."""
    until(lambda: client.get("/artifacts", least_tokens=tokens)["artifacts"], "the new pool was found")


def test_an_unchecked_name_never_reaches_the_file_system(root: Path, tmp_path: Path):
    (root / "subsets").symlink_to(tmp_path)
    with serving(root) as client:
        assert "leads out of" in str(refused(client.carve, "toy", 100, name="x"))
    assert not (tmp_path / "x").exists()
    (root / "pools" / "linked").symlink_to(tmp_path)
    assert Service(str(root))._scanner.scan()[0].manifest.name == "toy"
