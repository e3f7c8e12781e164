# Every target works in a fresh clone: it makes .venv and installs the project into it on first use, and not again until
# pyproject.toml changes. Nothing is needed beforehand but make and Python >= 3.10.
#
#   make test PYTHON=python3.12     another interpreter for .venv
#   make test ARGS="tests/meta -k rmd"
#   make compare ARGS="--preset smoke"

PYTHON ?= python3
WORKERS ?= 2
ARGS ?=
SINCE ?= HEAD

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOWEST := .venv-lowest
DOCS := .venv-docs
WHEEL := .venv-wheel

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv test quick test-lowest wheel compare lint docs tutorials clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

venv: $(STAMP) ## make .venv with the project and its development tools

# One torch thread per worker: two workers with a thread pool each would fight over the cores.
test: $(STAMP) ## run the tests (ARGS: options for pytest; WORKERS: processes, 2 by default)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --durations=10 $(ARGS)

# By files, so that it takes seconds where a change is small; SINCE=main adds what earlier commits of a branch changed.
quick: $(STAMP) ## run the tests of the files that changed since the commit SINCE (ARGS: as above)
	@tests="$$($(BIN)/python tests/changed.py $(SINCE))"; if [ -z "$$tests" ]; then echo "no file changed that has tests"; \
	else OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) $(ARGS) $$tests; fi

# Old releases warn of newer ones of what they build upon: no fault of the project, so warnings are no errors here.
test-lowest: $(LOWEST)/.installed ## run them with the lowest versions that pyproject.toml allows (ARGS, WORKERS: as above)
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -n $(WORKERS) --dist worksteal -W default $(ARGS)

# The environment is new each time, so that nothing is there but what the wheel asks for.
wheel: ## build dist/*.whl, install it into an environment of its own, and run README's first example there
	rm -rf build dist
	$(new-venv) --clear $(WHEEL)
	$(WHEEL)/bin/python -m pip wheel --disable-pip-version-check --no-deps -w dist .
	$(WHEEL)/bin/python -m pip install --disable-pip-version-check dist/*.whl
	$(WHEEL)/bin/python -I tests/try_wheel.py

compare: $(STAMP) ## run the comparison of all teachers (ARGS: its options, for example "--preset smoke")
	$(BIN)/python -m benchmarks compare $(ARGS)

lint: $(STAMP) ## check style, formatting and types
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

# The site is made from the source without importing it, so that a small environment of its own is enough.
docs: $(DOCS)/.installed ## build the documentation into site/; warnings and broken links are errors
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/python -m mkdocs build --strict $(ARGS)

# Their pages, with outputs and figures, are committed; `make docs` refuses a page that is older than its script.
tutorials: $(STAMP) ## run the tutorials in docs/tutorials anew (ARGS: names of some of them)
	OMP_NUM_THREADS=1 $(BIN)/python docs/tools/run_tutorials.py $(ARGS)

clean: ## remove .venv, caches and build products; results in runs/ stay
	rm -rf $(VENV) $(LOWEST) $(DOCS) $(WHEEL) site build dist ./*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -type d -name __pycache__ -prune -exec rm -rf {} +

# Stamps are touched last, so an interrupted installation is taken up again by the next call.
$(STAMP): pyproject.toml
	$(new-venv) $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -e ".[dev]"
	@touch $@

$(LOWEST)/.installed: pyproject.toml tests/lower_bounds.py
	$(new-venv) --clear $(LOWEST)
	$(LOWEST)/bin/python -m pip install --disable-pip-version-check --no-deps -e .
	$(LOWEST)/bin/python tests/lower_bounds.py dev nlp > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --disable-pip-version-check -c $(LOWEST)/constraints.txt -e ".[dev,nlp]"
	@touch $@

$(DOCS)/.installed: pyproject.toml docs/tools/requirements.py
	$(new-venv) $(DOCS)
	$(DOCS)/bin/python docs/tools/requirements.py docs > $(DOCS)/requirements.txt
	$(DOCS)/bin/python -m pip install --disable-pip-version-check -r $(DOCS)/requirements.txt
	@touch $@

define new-venv
	@command -v "$(PYTHON)" >/dev/null 2>&1 || { \
		echo "error: no '$(PYTHON)' on the PATH; install Python 3.10 or newer, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "error: found $$("$(PYTHON)" --version 2>&1), expected Python 3.10 or newer; name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	"$(PYTHON)" -m venv
endef
