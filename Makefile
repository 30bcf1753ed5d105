# Everything a newcomer needs: `make demo` runs the main job, `make test` passes the tests.
# Both make their own virtual environment in .venv and install into it once.

VENV ?= .venv
BIN := $(VENV)/bin
# The first interpreter that is new enough; override with `make PYTHON=/path/to/python`.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
INSTALLED := $(VENV)/.installed

.PHONY: demo test test-fast test-slow lint types format docs install clean help

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

install: $(INSTALLED)  ## make .venv and install the project with all it needs for demo and tests

$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 to 3.13 is needed; none was found (set PYTHON=...)." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (about a minute, once) ..."
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(INSTALLED)  ## tuning logs -> corpus -> trained model -> tunes held-out models; tables, pictures, a report
	$(BIN)/python -m optformer.evaluate.demo --out demo-output

test: $(INSTALLED)  ## the test suite
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-fast: $(INSTALLED)  ## the half of it that neither trains, starts processes, nor compiles much
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not integration"

test-slow: $(INSTALLED)  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

lint: $(INSTALLED)  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)  ## mypy
	$(BIN)/mypy -p optformer

format: $(INSTALLED)  ## ruff's formatter and fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(INSTALLED)  ## the documents and the API as a site in build/site, which needs no network
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:  ## remove what builds and runs left
	rm -rf build dist .cache *.egg-info demo-output
