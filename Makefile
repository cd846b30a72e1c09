# The two commands a newcomer needs: `make shards` and `make test`. Each makes .venv when it is missing.
PYTHON ?= python3.11
# `make setup TORCH=latest`, or another version: an environment of its own with that torch (torch.txt says what else differs).
VENV := .venv$(TORCH:%=-torch-%)
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Of files at a time: one more than two cores have, as many tests wait. A process of tests takes 1.7 GB.
JOBS ?= 3
# Whole files, in the order of tests/conftest.py: xdist's own puts those with the fewest tests last, the longest among them.
SPREAD := --dist loadfile --no-loadscope-reorder
# A clone's folder may have a name that is none in Python, as `epochal-main` of an archive: tests are its only package.
PYTEST := $(BIN)/python -m pytest --confcutdir tests
COMPILED := $(wildcard tokenize/*.[ch] datapipe/text/*.[ch] datapipe/arrays/*.[ch])
HEADERS := import sysconfig; print(sysconfig.get_path('include'))

.DEFAULT_GOAL := $(if $(TORCH),setup,help)
# Builds, tests and grids start many processes that import torch: each would compile it again.
unexport PYTHONDONTWRITEBYTECODE
.PHONY: help shards test test-fast test-train lint format train crossover crossover-functions crossover-arms crossover-repack crossover-long bench constraints dist wheelhouse test-wheelhouse docs hashes audit setup clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-19s %s\n", $$1, $$2}' Makefile

# uv resolves and installs in seconds what pip takes minutes for; it comes from pip itself.
# With TORCH, the packages of torch.txt are found first, by themselves; then they override the pins of others.
MOVED = $(shell sed -n 's/^\([a-z]\+\).*/\1/p' torch.txt | paste -sd '|')
PINS := $(if $(TORCH),$(VENV)/constraints.txt --override $(VENV)/torch.txt,constraints.txt)
$(READY): pyproject.toml constraints.txt $(if $(TORCH),torch.txt) $(COMPILED)
	@echo "setting up $(VENV) (about 7 GB with CUDA libraries; takes a minute or a few)"
	@command -v $(PYTHON) >/dev/null || { echo "make: no $(PYTHON) found: install Python 3.11 or 3.12, or name one: make PYTHON=python3.12"; exit 2; }
	@test -f "$$($(PYTHON) -c "$(HEADERS)")/Python.h" || { echo "make: $(PYTHON) has no headers, which the compiled part needs: install them (on Debian python3-dev)"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv -c constraints.txt
ifdef TORCH
	@grep -v -E "^($(MOVED)|triton|nvidia-.*)==" constraints.txt > $(VENV)/constraints.txt
	@{ cat torch.txt; echo "$(if $(filter latest,$(TORCH)),,torch==$(TORCH))"; } | $(BIN)/uv pip compile --quiet --no-header \
	  --no-annotate --no-emit-index-url --python $(BIN)/python -c $(VENV)/constraints.txt - > $(VENV)/resolved.txt
	@grep -E "^($(MOVED))==" $(VENV)/resolved.txt > $(VENV)/torch.txt
endif
	@$(BIN)/uv pip install --quiet --python $(BIN)/python -c $(PINS) -e '.[dev]'
	@mkdir -p $(VENV)/src && ln -sfn "$(CURDIR)" $(VENV)/src/epochal
	@touch $@

POOL := artifacts/pools/python
SIZES := 500k 1M 2M 5M

# Built once: later the environment, which is the corpus, may have changed.
$(POOL)/manifest.json: | $(READY)
	$(BIN)/epochal build python

setup: $(READY) ## make .venv, and nothing else

shards: $(READY) $(POOL)/manifest.json ## build the default pool from real text, carve 500k/1M/2M/5M, verify them all
	$(BIN)/epochal carve $(POOL) $(SIZES:%=--unique-tokens %)
	$(BIN)/epochal verify $(POOL) $(POOL)-val $(SIZES:%=artifacts/subsets/python-%)

test: $(READY) ## run every test, three files at a time (JOBS=1: one)
	@$(PYTEST) -n $(JOBS) $(SPREAD)

test-fast: $(READY) ## run the tests of single modules: under a minute
	@$(PYTEST) -m "not processes and not slow" --ignore tests/integration

test-train: $(READY) ## the fast tests of the trainer alone; TORCH=latest: with the newest torch
	@echo "the trainer's tests with torch $$($(BIN)/python -c 'from importlib.metadata import version; print(version("torch"))')"
	@$(PYTEST) tests/train -n $(JOBS) $(SPREAD) -m "not processes and not slow"

train: $(READY) ## train a tiny AR and a tiny MDM model on real text, repeated; receipts, table, plot
	@$(BIN)/python -W ignore -m epochal.examples.demo

SMALL_POOL := artifacts/pools/python-1k
$(SMALL_POOL)/manifest.json: | $(READY)
	@$(BIN)/python -W ignore -m epochal.examples.demo --pool

crossover: $(READY) $(SMALL_POOL)/manifest.json ## AR against masked diffusion over unique tokens: curves, crossovers, report (2 cores, 20 min)
	@$(BIN)/epochal crossover crossover-cpu

FUNCTIONS := artifacts/pools/functions-1k
$(FUNCTIONS)/manifest.json: | $(READY)
	@$(BIN)/python -W ignore -m epochal.examples.functions

crossover-functions: $(READY) $(FUNCTIONS)/manifest.json ## the same on many short documents, best against best (2 cores, half an hour)
	@$(BIN)/epochal crossover crossover-functions

crossover-arms: $(READY) $(FUNCTIONS)/manifest.json ## what helps whom: arms of both types, one budget, three seeds (2 cores, an hour)
	@$(BIN)/epochal crossover crossover-arms

crossover-repack: $(READY) $(FUNCTIONS)/manifest.json ## documents packed anew in every pass or not: both types, three seeds (2 cores, 15 min)
	@$(BIN)/epochal crossover crossover-repack

crossover-long: $(READY) $(FUNCTIONS)/manifest.json ## 150 passes over many short documents, AR's best arm (2 cores, hours; goes on where it stopped)
	@$(BIN)/epochal crossover crossover-long

lint: $(READY) ## style, docstrings and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/python tests/support/checks/docstrings.py
	@MYPYPATH=$(VENV)/src $(BIN)/mypy --explicit-package-bases -p epochal
	@$(CC) -std=c11 -Wall -Wextra -Werror -fsyntax-only $(filter %.c,$(COMPILED)) -I"$$($(BIN)/python -c "$(HEADERS)")"

bench: $(READY) ## measure against the stock parts; writes benchmarks/results/*.json
	@set -e; for name in loader curve build near_duplicates formats order train service many_runs; do $(BIN)/python -W ignore -m epochal.benchmarks.$$name; done

constraints: $(READY) ## resolve every pin again, newest versions that agree
	@{ head -2 constraints.txt; $(BIN)/uv pip compile pyproject.toml --quiet --upgrade --all-extras --python-version 3.11 \
	  --no-header --no-annotate --no-emit-index-url | LC_ALL=C sort; } > constraints.new && mv constraints.new constraints.txt

docs: $(READY) ## the documentation as a site, in build/site/; links are followed, nothing is fetched
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet && echo "build/site/index.html"

# From the source archive, so that it is complete; its compiled part says which Linux it runs on (setup.py).
dist: $(READY) ## the source archive, and a wheel from it, into dist/
	@rm -f dist/epochal-* && $(BIN)/uv build --quiet --no-build-isolation --python $(BIN)/python --out-dir dist
	@ls dist

WHEEL_PYTHON ?= 3.12
WHEELHOUSE := dist/wheelhouse
wheelhouse: $(READY) ## what a machine with torch but no network lacks, into dist/wheelhouse (WHEEL_PYTHON=3.12)
	@rm -rf $(WHEELHOUSE) && $(BIN)/uv build --quiet --no-build-isolation --python $(BIN)/python --out-dir $(WHEELHOUSE)
	@rm -f $(WHEELHOUSE)/epochal-*.tar.gz $(WHEELHOUSE)/.gitignore
	@$(BIN)/python tests/support/checks/wheelhouse.py $(WHEELHOUSE) --python $(WHEEL_PYTHON)

test-wheelhouse: wheelhouse ## the trainer's fast tests from it, with the newest torch, that Python and no network
	@tests/support/checks/elsewhere.sh $(WHEELHOUSE) $(WHEEL_PYTHON) $(BIN)/uv

HASHED := requirements.hashed.txt
hashes: $(READY) ## every pin with the SHA-256 of its files, for pip install --require-hashes --no-deps -r ...
	@$(BIN)/uv pip compile constraints.txt --quiet --generate-hashes --no-deps --python-version 3.11 \
	  --no-header --no-annotate --no-emit-index-url --output-file $(HASHED).new > /dev/null && mv $(HASHED).new $(HASHED)
	@echo "$(HASHED): $$(grep -c '^[a-z]' $(HASHED)) packages, $$(grep -c 'sha256:' $(HASHED)) files"

audit: $(READY) ## ask for known faults of every pin (pip-audit; status 1: there are some, 2: it could not ask)
	@$(BIN)/python tests/support/checks/audit.py $(BIN)/uv tool run --quiet pip-audit --no-deps --disable-pip \
	  --progress-spinner off -r constraints.txt

format: $(READY) ## rewrite the code in the project's style
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format .

clean: ## remove the environment and built artifacts
	rm -rf .venv .venv-* artifacts runs build dist
