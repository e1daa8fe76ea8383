# Everything a contributor runs. CI runs `make lint` and `make test`, and nothing else.
.PHONY: run test chaos rehearsal lint bench secrets cli clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NEW_ENOUGH = $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	"heartline: $(PYTHON) is too old: install Python 3.11 or newer, and say make PYTHON=python3.11 ...")'
CLI_VERSION := 2.1.329
CLI := .cli/node_modules/.bin/claude

run: $(VENV)/.run
	@sh scripts/cli.sh $(CLI_VERSION)
	@exec $(BIN)/python -m stack

test: $(VENV)/.test cli
	$(BIN)/python -m pytest $(ARGS)

chaos: $(VENV)/.test cli
	$(BIN)/python -m tests.chaos $(ARGS)

rehearsal: $(VENV)/.test
	$(BIN)/python -m tests.rehearsal $(ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: $(VENV)/.test cli
	$(BIN)/python -m benchmarks

secrets:
	@sh scripts/secrets.sh

cli:
	@sh scripts/cli.sh $(CLI_VERSION)

$(VENV)/.run: requirements.txt
	@$(NEW_ENOUGH)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements.txt
	@touch $@

$(VENV)/.test: requirements.txt requirements-test.txt
	@$(NEW_ENOUGH)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements-test.txt
	@touch $@ $(VENV)/.run

clean:
	rm -rf $(VENV) .cli state
