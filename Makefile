# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# or flower: the same app, the same table
ENGINE ?= nvflare
# how many runs of the truth table at a time
JOBS ?= 2
STAMP := $(VENV)/.installed
LOCK := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Some images switch it off: each of a thousand processes would compile every module anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test quick lint bench soak truth-table lock install clean

demo: install
	@$(BIN)/flip-fl run examples/breast_cancer --engine $(ENGINE) --sites 2 --rounds 5 --out runs/demo --baselines

# half of their time the tests wait for engines, sites and hubs: more of them than processors at once
test: install lint
	$(BIN)/python -m pytest -n 5 --dist loadgroup -m "not soak and not bench"

# the fast tests alone, for the loop while writing
quick: install
	$(BIN)/python -m pytest -n 2 -m "not slow and not soak and not bench"

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install
	@mkdir -p build
	$(BIN)/python -m tests.benchmarks

soak: install
	$(BIN)/python -m pytest -m soak --timeout 7200

# how every run ends, each with a real run: what is known is not run again while the code is the same
truth-table: install
	@$(BIN)/python -m tests.truth --jobs $(JOBS) --write

install: $(STAMP)

# The stamp holds the hash of what was installed, so that a touched but unchanged file installs nothing.
$(STAMP): $(LOCK) pyproject.toml
	@if [ -f $(STAMP) ] && cat $(LOCK) pyproject.toml | sha256sum | cmp -s - $(STAMP); then touch $(STAMP); else \
	  echo "installing the pinned development environment into $(VENV) (once; some minutes)"; \
	  $(PYTHON) -m venv $(VENV) && \
	  $(BIN)/python -m pip install --quiet --constraint $(LOCK) --editable '.[all,dev]' && \
	  cat $(LOCK) pyproject.toml | sha256sum > $(STAMP); fi

# Resolve everything anew from pyproject.toml. torch stays at the pinned version: newer ones pull CUDA from PyPI.
lock:
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet 'torch==2.13.0' --editable '.[all,dev]'
	build/lock/bin/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' > $(LOCK)
	rm -rf build/lock

clean:
	rm -rf $(VENV) build dist runs
