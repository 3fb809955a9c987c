# Two commands need no reading: `make demo` and `make test`. `make help` lists the rest.
# Everything lives in $(VENV); a stamp a set of extras makes the second run start at once.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint lint-js format bench app napari clean system

help:
	@echo "make demo     segment a phantom heart and write pictures, labels and a mesh to demo-output/"
	@echo "make test     set up everything, then ruff, mypy and all tests (GUI and browser included)"
	@echo "make app      the web demo on this machine        make napari   napari with the widget open"
	@echo "make bench    speed and memory, one table         make lint     ruff, mypy, eslint, prettier"
	@echo "make setup    the development environment         make clean    remove environment and caches"

setup: $(VENV)/.ready-dev

demo: $(VENV)/.ready-base
	@$(BIN)/diffatlas demo

# Whole files go to workers, so that a file's tests share its server or model. The browser's tests get processes of their
# own: Qt's and Playwright's event loops do not share one well.
# One thread a worker: the workers share the processors.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test: setup system lint
	@$(PYTEST) --ignore=tests/web
	@$(PYTEST) tests/web

lint: setup
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(MAKE) --no-print-directory lint-js

# Where eslint and prettier are installed (`npm install` in this folder); nothing is fetched here.
JS := app/diffatlas_app/static tests/web
ESLINT := $(firstword $(wildcard node_modules/.bin/eslint) $(shell command -v eslint))
PRETTIER := $(wildcard node_modules/.bin/prettier)
PRETTIER_FILES := "app/diffatlas_app/static/**/*.js" "tests/web/**/*.mjs"

lint-js:
	@$(if $(ESLINT),$(ESLINT) $(JS),echo "eslint is not installed: the JavaScript is not linted")
	@$(if $(PRETTIER),$(PRETTIER) --check $(PRETTIER_FILES),:)

format: setup
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format
	@$(if $(PRETTIER),$(PRETTIER) --write --log-level warn $(PRETTIER_FILES),:)

# The other benchmarks/bench_*.py take up to an hour; each says what it measures, and keeps its figures in benchmarks/results.
bench: setup
	@$(BIN)/python benchmarks/bench_speed.py $(if $(PUBLISHED),--published $(PUBLISHED))

app: $(VENV)/.ready-app
	@$(BIN)/diffatlas app

napari: $(VENV)/.ready-napari
	@$(BIN)/diffatlas napari

# Xvfb, a browser and Qt's libraries for the tests; installs what is missing where it may, else says what that is.
system:
	@tools/system-packages

clean:
	rm -rf $(VENV) build dist *.egg-info demo-output .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find app benchmarks core docs napari_diffatlas tests -name __pycache__ -type d -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	@$(PYTHON) -m venv $(VENV)

# The development environment holds every extra, so it satisfies the others too.
EXTRAS-base :=
EXTRAS-app := [app]
EXTRAS-napari := [napari]
EXTRAS-dev := [dev,app,napari]

$(VENV)/.ready-%: pyproject.toml constraints.txt | $(BIN)/python
	@if [ "$*" != dev ] && [ $(VENV)/.ready-dev -nt pyproject.toml ] && [ $(VENV)/.ready-dev -nt constraints.txt ]; \
	then :; else \
	  echo "Installing into $(VENV)$(if $(EXTRAS-$*), with $(EXTRAS-$*)) (minutes the first time, then never again) ..."; \
	  $(PIP) install -c constraints.txt -e '.$(EXTRAS-$*)' || exit 1; \
	fi
	@touch $@
