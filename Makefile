# mailnode: `make run` starts a node, `make test` runs every test. Nothing is installed outside .venv.

RECENT := import sys; sys.exit(sys.version_info < (3, 11))
# The first Python that is there, works, and is recent enough.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c '$(RECENT)' >/dev/null 2>&1 && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
CONFIG ?=
# Programs that are started again and again are compiled once.
unexport PYTHONDONTWRITEBYTECODE
# Tests wait for processes more than they compute.
WORKERS ?= $(shell expr $$(nproc 2>/dev/null || echo 2) \* 2)

.PHONY: help run test lint types coverage crash bench crowd fuzz laws bombs clean

help:            ## this list
	@grep -hE '^[a-z]+: .*##|^[a-z]+:  +##' $(MAKEFILE_LIST) | sed 's/:[^#]*## /\t/' | expand -t 12

$(BIN)/python:
	@test -n "$(PYTHON)" && $(PYTHON) -c '$(RECENT)' \
		|| { echo "mailnode needs Python 3.11 or newer (set PYTHON=...)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml | $(BIN)/python
	@echo "installing into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/installed-test: pyproject.toml | $(BIN)/python
	@echo "installing what the tests need into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@ $(VENV)/installed

$(VENV)/installed-lint: pyproject.toml | $(BIN)/python
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,lint]'
	@touch $@

run: $(VENV)/installed  ## start a node on 127.0.0.1:2525 (CONFIG=file for another)
	@echo "mailnode on 127.0.0.1:2525, data in ./mailnode-data; end it with ^C"
	@$(BIN)/twistd -n --pidfile= mailnode $(if $(CONFIG),--config $(CONFIG))

test: $(VENV)/installed-test  ## run every test (no root needed)
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup

lint: $(VENV)/installed-lint  ## style
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(VENV)/installed-lint  ## types
	@$(BIN)/mypy mailnode

coverage: $(VENV)/installed-test  ## every branch of mailnode/smtp
	@$(BIN)/python -m pytest tests/smtp tests/laws --cov=mailnode.smtp --cov-branch --cov-report=term-missing --cov-fail-under=100

crash: $(VENV)/installed-test  ## the long form of the kill -9 test: 2,000 messages
	@MAILNODE_CRASH_MESSAGES=2000 $(BIN)/python -m pytest tests/clients/test_crash.py

bench: $(VENV)/installed  ## accepted and delivered a second, beside Postfix (as root)
	@$(BIN)/python bench/accept.py

crowd: $(VENV)/installed  ## 200 slow and 2,000 idle clients: greetings, memory; plain and under TLS
	@$(BIN)/python bench/crowd.py && $(BIN)/python bench/crowd.py --tls

MINUTES ?= 2
JOBS ?= 1
TARGETS ?=

fuzz: $(VENV)/installed-test  ## fuzz every target for MINUTES=2 (JOBS=1 at once; TARGETS=name... for some)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[fuzz]' \
		|| echo "atheris cannot be installed here: our own mutator looks alone" >&2
	@$(BIN)/python -m fuzz.run --seconds $$(($(MINUTES) * 60)) --jobs $(JOBS) $(TARGETS)

laws: $(VENV)/installed-test  ## the laws, 100,000 examples of the channel of two hosts (EXAMPLES=n); takes hours
	@MAILNODE_LAWS=$(or $(EXAMPLES),100000) $(BIN)/python -m pytest tests/laws

bombs: $(VENV)/installed-test  ## lines and messages of 1 GiB, 100,000 recipients
	@MAILNODE_BOMB_MIB=1024 $(BIN)/python -m pytest tests/clients/test_bombs.py

clean:  ## remove what make made
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage build/fuzz
