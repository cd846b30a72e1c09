"""The commands: serve, register, and what they say where packages are missing."""

import subprocess
import sys
from pathlib import Path

import pytest

import epochal
from epochal.__main__ import main
from epochal.service.operations.serve import catalogue_text
from epochal.service.service import Service
from epochal.shards import carve
from epochal.tests.support.servers import serving
from epochal.tests.support.service_calls import claim, refused, report


def test_other_addresses_demand_tokens_and_ports_are_checked(root: Path, capsys):
    assert main(["serve", "--root", str(root), "--host", "0.0.0.0"]) == 2
    assert "can be reached from other machines: name tokens" in capsys.readouterr().err
    with serving(root) as client:
        assert main(["serve", "--root", str(root), "--port", client.url.rpartition(":")[2]]) == 2
    assert "Address already in use" in capsys.readouterr().err
    assert main(["serve", "--root", str(root), "--database", "mysql://x/y"]) == 2
    assert main(["seen", "--service", client.url, "--document", "x"]) == 1
    assert "start it with epochal serve" in capsys.readouterr().err


def test_registering_what_lies_elsewhere(root: Path, make_pool, tmp_path: Path, capsys):
    elsewhere, _ = carve.carve(str(root / "pools" / "toy"), 500, out=str(tmp_path / "elsewhere"), materialize=True)
    assert main(["register", elsewhere, "--root", str(root)]) == 0
    assert "registered subset elsewhere" in capsys.readouterr().out
    assert main(["register", str(tmp_path / "nothing"), "--root", str(root)]) == 2
    with serving(root) as client:
        assert client.get("/artifacts/elsewhere")["locations"][0]["path"] == elsewhere


def test_what_the_service_does_not_know_is_said_with_its_cure(root: Path, tmp_path: Path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text("{}")
    assert main(["register", str(run), "--root", str(root)]) == 2
    assert "is a run that reported to no service: train it again" in capsys.readouterr().err
    with serving(root) as client:
        service = ["--service", client.url]
        assert main(["seen", "--run", "nobody", "--histogram", *service]) == 2
        assert "a run is known once it reports" in capsys.readouterr().err
        assert main(["seen", "--document", "nothing", *service]) == 2
        assert "shows the first one's id" in capsys.readouterr().err
        assert main(["seen", "--document", "doc0", *service]) in (0, 2)
        assert "run  exposures" not in capsys.readouterr().out


@pytest.mark.slow
def test_the_command_line_needs_none_of_the_services_packages():
    code = "import sys; sys.modules.update(fastapi=None, httpx=None); from epochal.__main__ import main; "
    code += "sys.exit(main(['serve']) + main(['seen', '--document', 'x']))"
    path = str(Path(epochal.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": path})
    assert done.returncode == 4
    assert done.stderr.count("the service's packages are not installed: pip install") == 2


@pytest.mark.parametrize(
    ("below", "said"),
    [
        ("artifacts", "it has 1 pool and 0 subsets under {}/artifacts"),
        ("", "it has no artifacts: {} has no pools/NAME/manifest.json or subsets/NAME/manifest.json; did you mean"),
        ("artifacts/pools", "it has no artifacts: {}/artifacts/pools has no pools/NAME/manifest.json or subsets/NAME/"),
        ("elsewhere", "it has no artifacts: {}/elsewhere has no pools/NAME/manifest.json"),
    ],
)
def test_serve_says_what_it_found(below: str, said: str, root: Path, tmp_path: Path):
    odd = root / "pools" / "odd"
    odd.mkdir()
    (odd / "manifest.json").write_text("{")
    service = Service(str(tmp_path / below))
    service.refresh(at_once=True)
    lines = catalogue_text(str(tmp_path / below), service)
    service.close()
    assert lines[0].startswith(said.format(tmp_path))
    assert lines[0].endswith(f"did you mean --root {root}?") == (below in ("", "artifacts/pools"))
    assert [f"left out: {odd}: " in line for line in lines[1:]] == ([True] if below == "artifacts" else [])


def test_release_frees_the_name_of_a_dead_run(root: Path, capsys):
    with serving(root) as client:
        plan = client.plan("toy", epochs=2)
        claim(client, "dead", plan, lease_seconds=86_400)
        report(client, "dead", 1, 40)
        assert "`epochal release dead`" in str(refused(claim, client, "dead", plan, "another"))
        assert main(["release", "dead", "--service", client.url]) == 0
        assert "run name dead is free (the lease had 86," in capsys.readouterr().out
        assert claim(client, "dead", plan, "another")["token"] == 2
        assert main(["release", "nobody", "--service", client.url]) == 2
        assert "there is no run 'nobody'" in capsys.readouterr().err
