# Development commands; `make` alone lists them.
.PHONY: help setup format lint types imports docs test slow browser lowest check
.DEFAULT_GOAL := help
OFFLINE := HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1

help:     ## list the commands
	@grep -hE '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed 's/: .*##/\t/' | expand -t 10

setup:    ## install the package for development, with the commit hooks
	python3 -m pip install -e '.[dev]'
	pre-commit install

format:   ## rewrite the code in the house format
	ruff format .
	ruff check --fix .

lint:     ## format and lint, without changing anything
	ruff format --check .
	ruff check .

types:    ## static types
	pyright

imports:  ## who may import whom
	lint-imports

docs:     ## build the documentation; every warning is an error
	$(OFFLINE) sphinx-build -W --keep-going -q -b html docs docs/_build/html

test:     ## the default tests
	$(OFFLINE) pytest

slow:     ## full-size models and clusters, one at a time: minutes, about 6 GB
	$(OFFLINE) pytest -n 0 -m slow

browser:  ## the page of the studio in the system's Chromium; needs the extra `browser`
	$(OFFLINE) pytest -n 0 -m browser tests/studio

lowest:   ## the default tests with the lowest versions that pyproject.toml allows
	.ci/lowest

check: lint types imports docs slow  ## everything that CI checks except `test` and `lowest`
