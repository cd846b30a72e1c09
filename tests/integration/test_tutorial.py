"""The commands of docs/tutorial.md, run as they stand there."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tutorial.md"


def commands() -> str:
    """Return the page's fenced commands as one script that stops at the first failure."""
    return "set -euo pipefail\n" + "".join(
        re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    )


@pytest.mark.slow
@pytest.mark.processes
def test_the_tutorial_leads_from_text_to_a_crossover(tmp_path: Path):
    assert commands().count("epochal ") >= 10
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment |= {"PYTHONWARNINGS": "ignore"}
    script = ["bash", "-c", commands()]
    done = subprocess.run(script, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    # What the page says of it.
    assert "1 document: 1 exact" in done.stdout
    assert "whole: artifacts/subsets/tutorial-4k" in done.stdout
    found = json.loads((tmp_path / "runs" / "tutorial" / "crossovers.json").read_text())["crossovers"]
    status = {c["unique_tokens"]: c["status"] for c in found if c["metric"] == "loss"}
    # Not where: the text is the docs, and each change of them moves the pass at which a model so small overtakes.
    assert (status[4000] in ("crosses", "ahead"), status[20_000]) == (True, "none")
    assert (tmp_path / "runs" / "tutorial" / "report.html").is_file()
