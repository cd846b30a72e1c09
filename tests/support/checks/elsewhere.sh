#!/usr/bin/env bash
# The trainer's fast tests on another machine, as far as this one can be one: another Python, the newest torch and NumPy,
# of ours what lies in the wheelhouse, and no network (a network namespace of its own, which needs Linux).
#
#     elsewhere.sh WHEELHOUSE PYTHON UV
set -euo pipefail
root=$(cd "$(dirname "$0")/../../.." && pwd)
wheelhouse=$(realpath "$1") python=$2 uv=$(realpath "$3")
work=$root/.venv-elsewhere # not in build/, which mypy would walk through
offline=(unshare --map-root-user --net sh -c 'ip link set lo up && exec "$@"' sh) # ranks of one machine meet over lo
# Of the tests alone. They are found after the wheelhouse's packages, and training without them has a test of its own.
tools="pytest|iniconfig|pluggy|hypothesis|sortedcontainers|pyarrow|polars|polars-runtime-32|scipy"
tools+="|fastapi|starlette|annotated-doc|opentelemetry-api|uvicorn|click|h11|httpx|httpcore"
tools+="|sqlalchemy|alembic|mako|markupsafe|prometheus-client"

rm -rf "$work" && mkdir -p "$work" && cd "$work"
"$uv" python find --quiet --no-python-downloads "$python" > /dev/null 2>&1 || {
    echo "test-wheelhouse: no Python $python is found here: put it into PATH, or name another: make test-wheelhouse WHEEL_PYTHON=3.11" >&2
    exit 2
}
"$uv" venv --quiet --seed --no-python-downloads --python "$python" machine
"$uv" pip install --quiet --python machine/bin/python torch torchvision 'numpy>=2'
grep -E "^($tools)==" "$root/constraints.txt" > tools.txt
"$uv" pip install --quiet --python machine/bin/python --target tools --no-deps -r tools.txt

"${offline[@]}" machine/bin/python -m pip install --quiet --no-index --no-deps --target packages "$wheelhouse"/*.whl
for part in tests benchmarks examples pyproject.toml; do cp -r "$root/$part" packages/epochal/; done
machine/bin/python -c "import sys, torch, numpy
print(f'Python {sys.version.split()[0]}, torch {torch.__version__}, NumPy {numpy.__version__}, no network')"
export PYTHONPATH=$work/packages:$work/tools OMP_NUM_THREADS=1
"${offline[@]}" machine/bin/python -m pytest packages/epochal/tests/train --rootdir packages/epochal \
  -c packages/epochal/pyproject.toml -p no:cacheprovider -m "not processes and not slow"
