# Common tasks. `make help` lists them.
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --constraint constraints.txt

.venv/base: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet "pip>=25.1,<26"
	$(PIP) --editable ".[plot,xlsx,serve]"
	@touch $@

.venv/test: .venv/base
	$(PIP) --editable ".[plot,xlsx,ann,serve,spacy]" --group test
	@touch $@

.venv/slow: .venv/test
	$(PIP) --editable ".[ray]"
	@touch $@

.venv/check: .venv/base
	$(PIP) --group check
	@touch $@

.venv/docs: .venv/base
	$(PIP) --group docs
	@touch $@

.PHONY: help install demo test test-slow test-real screenshots fuzz coverage check format docs clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

install: .venv/base ## create .venv and install xsap in it

demo: .venv/base ## continue training a small pretrained model on the sample terminology, and link terms
	PATH="$(CURDIR)/$(BIN):$$PATH" examples/demo.sh

# Bytecode of tests and modules is kept: every worker and every command that a test runs would compile them anew.
test: .venv/test ## run the tests; takes minutes
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --durations=25

test-slow: .venv/slow ## run the slow tests, minutes each, and properties on all their examples
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow or hypothesis" --hypothesis-profile thorough

test-real: .venv/test ## run the tests on a real model: MODEL=FOLDER, optionally TERMINOLOGY=FOLDER MENTIONS=FILE
	XSAP_REAL_MODEL="$(MODEL)" XSAP_REAL_TERMINOLOGY="$(TERMINOLOGY)" XSAP_REAL_MENTIONS="$(MENTIONS)" \
	    $(BIN)/python -m pytest -m real -rsP tests/test_real_model.py

screenshots: .venv/test ## take the screenshots of docs/review.md again; needs chromium
	XSAP_SCREENSHOTS=1 $(BIN)/python -m pytest tests/xsap/test_review_page.py -k screenshots

fuzz: .venv/test ## test every reader of data_prep on damaged files, for twenty minutes
	PYTHONPATH=. $(BIN)/python tests/data_prep/fuzz_readers.py --minutes 20

coverage: .venv/test ## run the tests and report how much of xsap and data_prep they execute
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-report=term --cov-fail-under=90

check: .venv/check ## check style (ruff) and types (mypy, strict)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/check ## format every file
	$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format .

docs: .venv/docs ## build the documentation into site/
	$(BIN)/mkdocs build --strict --quiet

clean: ## remove everything the other targets created
	rm -rf .venv demo runs dist build site fuzz-found .pytest_cache .mypy_cache .ruff_cache .hypothesis
