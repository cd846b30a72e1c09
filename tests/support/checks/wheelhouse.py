"""`make wheelhouse`: what a machine with torch and CUDA but no network lacks, in one folder of wheels.

`python wheelhouse.py FOLDER --python 3.12`; epochal's own wheel already lies in FOLDER.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[3]
MOST_BYTES = 60_000_000
OLDEST_GLIBC = 28
"""glibc 2.28 of 2018: every distribution that today's torch runs on has it or a newer one."""

OF_THE_MACHINE = ("torch", "torchvision", "numpy")
"""What the machine has, with all that these need: another version here would not go with its CUDA."""

LEFT_OUT = {
    "pyarrow": "build, carve, export, crossover, a run's service=",
    "polars": "build, evaluate",
    "scipy": "build, crossover, memorisation",
    "datatrove": "build",
}
"""Too heavy, and no part of training: what does not run where the machine has none of it."""

README = """\
epochal {version} and what it needs for training, for Python {python} on Linux x86-64 with glibc 2.{glibc} or newer.

    python3 -m pip install --no-index --no-deps --target epochal-packages {folder}/*.whl
    export PYTHONPATH=$PWD/epochal-packages
    python3 -m epochal train tiny-ar train_loader.dataset.path=SUBSET eval_loader=null

The first line asks no network, and leaves the machine's own packages as they are: what it installs into the new folder
is found before them, and only where PYTHONPATH names that folder. On several GPUs:

    python3 -m composer.cli.launcher -n 8 -m epochal.train CONFIG.yaml

The machine has {machine}, in any versions that go together: Composer's and Streaming's pins of them are
passed over, which is what --no-deps is for. torch.compile needs a C compiler there; compile_config=null does without.

Not in here, because they are heavy and no part of training. What needs them runs where the machine has them:

{left_out}
"""


def names(text: str) -> list[str]:
    """Return the packages that a list like wheelhouse.txt names: one a line, `#` begins a comment."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


def pins(constraints: str) -> dict[str, str]:
    """Return the versions that constraints.txt pins, by name."""
    return dict(line.split("==") for line in names(constraints))


def selected() -> list[str]:
    """Return what the wheelhouse holds besides epochal, as `name==version`.

    Raises:
        KeyError: for a name that constraints.txt does not pin.
    """
    versions = pins((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    return [f"{name}=={versions[name]}" for name in names((ROOT / "wheelhouse.txt").read_text(encoding="utf-8"))]


def platforms() -> list[str]:
    """Return the wheel platforms that such a machine accepts, the newest first. pip takes each by its exact name."""
    numbered = [f"manylinux_2_{minor}_x86_64" for minor in range(OLDEST_GLIBC, 4, -1)]
    return [*numbered, "manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64"]


def fetch(requirements: Sequence[str], folder: Path, python: str) -> str | None:
    """Download or build the wheels of `requirements` into `folder`; return what pip said when it could not.

    What has no wheel for that Python is built here, and must then be one for any machine.
    """
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    target = ["--only-binary=:all:", "--implementation=cp", f"--python-version={python}"]
    target += [f"--platform={platform}" for platform in platforms()]
    words = [*pip, "download", "--no-deps", f"--dest={folder}", *target]
    if subprocess.run([*words, *requirements], capture_output=True).returncode == 0:
        return None
    for requirement in requirements:  # one has no wheel: find out which
        if subprocess.run([*words, requirement], capture_output=True).returncode == 0:
            continue
        with tempfile.TemporaryDirectory() as built:
            build = subprocess.run(
                [*pip, "wheel", "--no-deps", f"--wheel-dir={built}", requirement], stderr=-1, text=True
            )
            wheels = list(Path(built).glob("*-none-any.whl"))
            if build.returncode or not wheels:
                said = (build.stderr or "it has a compiled part").strip().splitlines()[-1]
                return f"{requirement} has no wheel for Python {python}: {said}"
            wheels[0].replace(folder / wheels[0].name)
    return None


def readme(folder: Path, wheel: str, python: str) -> str:
    """Return the text of the README in `folder`, with epochal's `wheel`."""
    version = re.sub(r"^epochal-([^-]+)-.*", r"\1", wheel)
    left_out = "\n".join(f"    {name:10} {what}" for name, what in LEFT_OUT.items())
    machine = ", ".join(OF_THE_MACHINE[:-1]) + f" and {OF_THE_MACHINE[-1]}"
    return README.format(
        folder=folder.name, version=version, python=python, glibc=OLDEST_GLIBC, machine=machine, left_out=left_out
    )


def main() -> int:
    """Fill the folder and say what is in it; status 1 where a wheel could not be had, or all are too large."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", required=True, help="the version that the machine has, such as 3.12")
    args = parser.parse_args()
    if not re.fullmatch(r"3\.\d+", args.python):
        print(f"wheelhouse: WHEEL_PYTHON={args.python}: give a version such as 3.12", file=sys.stderr)
        return 2
    problem = fetch(selected(), args.folder, args.python)
    if problem:
        print(f"wheelhouse: {problem}", file=sys.stderr)
        return 1
    wheels = sorted(args.folder.glob("*.whl"))
    (own,) = (wheel.name for wheel in wheels if wheel.name.startswith("epochal-"))
    (args.folder / "README.txt").write_text(readme(args.folder, own, args.python), encoding="utf-8")
    total = sum(wheel.stat().st_size for wheel in wheels)
    size = f"{total / 1e6:.1f} MB"
    print(f"{args.folder}: {len(wheels)} wheels, {size}, for Python {args.python} and glibc 2.{OLDEST_GLIBC} or newer")
    print(f"not in it, for the machine to have: {', '.join(OF_THE_MACHINE)}; for other commands {', '.join(LEFT_OUT)}")
    print(f"how it is installed: {args.folder}/README.txt")
    if total > MOST_BYTES:
        print(f"wheelhouse: that is more than {MOST_BYTES / 1e6:.0f} MB", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
