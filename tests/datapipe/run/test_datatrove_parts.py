"""datatrove without the hub's client, and as it is otherwise."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
from epochal.datapipe.run import datatrove_parts
import huggingface_hub, datatrove.io
print("huggingface_hub.hf_api" in sys.modules, "requests" in sys.modules)
print(isinstance(datatrove.io.get_datafolder("/tmp"), datatrove.io.HfFileSystem))
hub = huggingface_hub.HfFileSystem
print(hub.__module__, isinstance(hub(), datatrove.io.HfFileSystem), isinstance(3, datatrove.io.HfFileSystem))
print(huggingface_hub.cached_assets_path is huggingface_hub.utils.cached_assets_path)
print(datatrove.io.cached_assets_path("x", assets_dir=sys.argv[1]))
"""


@pytest.mark.slow
def test_what_lies_on_the_hub_is_known_though_its_client_is_not_imported(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    client, local, hub, name, assets = done.stdout.splitlines()
    assert client == "False False"
    assert local == "False"
    assert hub == "huggingface_hub.hf_file_system True False"
    assert name == "True", "the client's own names are what they were"
    assert assets.startswith(f"{tmp_path}/x")
