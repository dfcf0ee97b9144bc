# Two commands do all the set-up: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
JOBS ?= 2
PY := $(VENV)/bin/python

.PHONY: help install demo demo-plain test test-slow test-cpus lint clean

help:
	@echo "make demo        the whole of it on a small embedded data set, in minutes on 2 CPU cores"
	@echo "make demo-plain  the same run without the method, for comparison"
	@echo "make test        style checks and tests"
	@echo "make test-slow   the tests that take minutes"
	@echo "make test-cpus   the tests as other CPUs, numbers of threads and newer libraries run them"
	@echo "make install     the environment alone ($(VENV))"

install: $(VENV)/installed

$(VENV)/installed: requirements.txt requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-dev.txt
	@$(PY) -m pip install --quiet --disable-pip-version-check pydensecrf2==1.1 >$(VENV)/pydensecrf2.log 2>&1 \
		|| echo "pydensecrf2 could not be built ($(VENV)/pydensecrf2.log); the CRF uses its torch backend instead"
	@touch $@

demo: install
	$(PY) demo.py --out demo

demo-plain: install
	$(PY) demo.py --out demo-plain --plain

lint: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

test: lint
	$(PY) -m pytest -m "not slow" -n $(JOBS) --dist loadfile

test-slow: install
	$(PY) -m pytest -m slow

# The suite as other CPUs and newer libraries run it; CPUS names some of the environments of tests/cpus.py.
test-cpus: install
	$(PY) tests/cpus.py --jobs $(JOBS) $(CPUS)

clean:
	rm -rf $(VENV) .venv-newest demo demo-plain .pytest_cache .ruff_cache
