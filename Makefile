# `make demo` and `make test` do all of the setup.
PYTHON ?= python3
VENV := .venv
JOBS ?= 2
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check
EXTRAS ?= pydensecrf2 tensorboard matplotlib jinja2 scipy

.PHONY: help install demo test test-slow test-cpus gpu lint clean

help:
	@echo "make demo        the whole pipeline on a small drawn data set, in minutes on 2 CPU cores"
	@echo "make test        style checks, type checks and tests"
	@echo "make test-slow   the tests that take minutes"
	@echo "make test-cpus   the tests as other CPUs and numbers of threads run them"
	@echo "make gpu         tests and measurements on a GPU; needs torch, but no network"
	@echo "make install     the environment ($(VENV)); EXTRAS=\"NAME ...\" selects optional packages"

install: $(VENV)/installed

$(VENV)/installed: requirements.txt requirements-optional.txt requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -r requirements.txt -r requirements-dev.txt
	@for name in $(EXTRAS); do \
		line=$$(grep "^$$name==" requirements-optional.txt) || { echo "$$name: not in requirements-optional.txt"; exit 2; }; \
		$(PIP) "$${line%% *}" >$(VENV)/$$name.log 2>&1 || echo "could not install $$line ($(VENV)/$$name.log)"; \
	done
	@touch $@

demo: install
	$(PY) demo.py --out demo

lint: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

test: lint
	$(PY) -m pytest -m "not slow" -n $(JOBS) --dist loadfile

test-slow: install
	$(PY) -m pytest -m slow

# The suite as other CPUs run it; CPUS names some of the environments of tests/cpus.py.
test-cpus: install
	$(PY) tests/cpus.py --jobs $(JOBS) $(CPUS)

# Without installing anything: the environment if there is one, otherwise the system's Python.
gpu: PYTHON := $(if $(wildcard $(PY)),$(PY),$(PYTHON))
gpu:
	$(PYTHON) -m pytest -o addopts="" -m cuda; tested=$$?; \
	$(PYTHON) benchmarks/bench.py --device cuda $(GPU_OPTIONS) && exit $$tested

clean:
	rm -rf $(VENV) demo .pytest_cache .ruff_cache
