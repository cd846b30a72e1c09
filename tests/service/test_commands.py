"""The commands: serve, register, and what they say where packages are missing."""

import subprocess
import sys
from pathlib import Path

import pytest

import epochal
from epochal.__main__ import main
from epochal.shards import carve
from epochal.tests.support.servers import serving


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


@pytest.mark.slow
def test_the_command_line_needs_none_of_the_services_packages():
    code = "import sys; sys.modules.update(fastapi=None, httpx=None); from epochal.__main__ import main; "
    code += "sys.exit(main(['serve']) + main(['seen', '--document', 'x']))"
    path = str(Path(epochal.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": path})
    assert done.returncode == 4
    assert done.stderr.count("the service's packages are not installed: pip install") == 2
