# Everything sets itself up: `make demo` and `make test` work on a machine with Python 3.11 to 3.13, pip, make and git.

PYTHON ?= python3
# The interpreter behind a version manager's shim: pyenv's locks its folder after each `pip install`, and fails where that lock was left behind.
INTERPRETER = $(shell $(PYTHON) -c 'import sys; print(sys.executable)')
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PEERS := .venv-peers
AUDIT := .venv-audit

.PHONY: install demo test test-full check format audit licenses keys bench bench-peers clean

install: $(STAMP)

# Without ensurepip (Debian keeps it in a package of its own) the system's pip fills the new environment.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv --without-pip $(VENV)
	$(INTERPRETER) -m pip --python $(BIN)/python install --quiet --upgrade pip
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'  # setuptools warns of every editable package
	$(BIN)/python -m compileall -q orchestrator  # pip leaves an editable package to be compiled by each process anew
	touch $@

demo: install
	test -d data/scenes || $(BIN)/orchestrator data scenes data/scenes --num-train 6000 --num-eval 1200 --seed 0
	$(BIN)/orchestrator run jobs/compare-scenes.yaml --cluster cluster/laptop

# What starts processes of its own runs two files at a time, each with a Ray of its own: more would only wait.
test: install
	$(BIN)/python -m pytest -m "not full" --numprocesses auto --dist loadfile tests/unit tests/specs
	$(BIN)/python -m pytest -m "not full" --numprocesses 2 --dist loadfile tests/distributed tests/gpu tests/ray

test-full: install
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile tests/unit tests/specs
	$(BIN)/python -m pytest tests/distributed tests/gpu tests/ray

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The pins against PyPI's known vulnerabilities; what cannot be looked up fails, since it was not scanned.
audit: $(AUDIT)/.installed
	$(AUDIT)/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off --requirement constraints.txt

$(AUDIT)/.installed:
	$(PYTHON) -m venv --without-pip $(AUDIT)
	$(PYTHON) -m pip --python $(AUDIT)/bin/python install --quiet --upgrade pip pip-audit
	touch $@

licenses: install
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[cluster,server]'
	$(BIN)/python scripts/licenses.py

keys: install
	$(BIN)/python scripts/keys.py

bench: install
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/loader.py --s3
	$(BIN)/python benchmarks/border.py
	$(BIN)/python benchmarks/step.py --objective clip siglip catlip --model vit_tiny_64 --batch 128
	$(BIN)/python benchmarks/concepts.py
	$(BIN)/python benchmarks/tracking.py
	$(BIN)/python benchmarks/compare.py
	$(BIN)/python benchmarks/probe.py
	$(BIN)/python benchmarks/scale.py --samples 1e6 --samples 1e8 --samples 1.3e9

# Other loaders in an environment of their own: what they pin does not go together with what we pin.
bench-peers: install $(PEERS)/.installed
	$(BIN)/python benchmarks/decode.py --peers $(PEERS)/bin/python
	$(BIN)/python benchmarks/open_clip_losses.py --peers $(PEERS)/bin/python

$(PEERS)/.installed: benchmarks/peers.txt
	$(PYTHON) -m venv --without-pip $(PEERS)
	$(PYTHON) -m pip --python $(PEERS)/bin/python install --quiet --upgrade pip
	$(PEERS)/bin/python -m pip install --quiet --requirement benchmarks/peers.txt
	touch $@

clean:
	rm -rf $(VENV) $(PEERS) $(AUDIT) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
