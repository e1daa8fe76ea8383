# Everything a contributor runs. CI runs `make lint` and `make test`, and nothing else.
.PHONY: run doctor test e2e chaos rehearsal lint bench secrets cli clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NEW_ENOUGH = $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	"heartline: $(PYTHON) is too old: install Python 3.11 or newer, and say make PYTHON=python3.11 ...")'
CLI_VERSION := 2.1.329
E2E := .e2e
AT_ONCE ?= 3
CLI := .cli/node_modules/.bin/claude

run: $(VENV)/.run
	@sh scripts/cli.sh $(CLI_VERSION)
	@exec $(BIN)/python -m stack

doctor: $(VENV)/.run
	@$(BIN)/python -m doctor $(ARGS)

test: $(VENV)/.test cli
	$(BIN)/python -m pytest -n $(AT_ONCE) --dist loadfile $(ARGS)

# Open WebUI with Heartline behind it. ARGS='-k browser' runs a part; a Chromium on PATH makes the screenshots.
e2e: $(E2E)/venv/.made $(E2E)/open-webui/.made cli
	$(E2E)/venv/bin/python -m pytest tests/e2e $(ARGS)

chaos: $(VENV)/.test cli
	$(BIN)/python -m tests.chaos $(ARGS)

rehearsal: $(VENV)/.test
	$(BIN)/python -m tests.rehearsal $(ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# ARGS="append latency" measures parts, ARGS="--against FILE" compares with another run than the newest that is committed.
bench: $(VENV)/.test cli
	@PYTHON="$(PYTHON)" sh scripts/peers.sh
	@$(BIN)/python -m benchmarks $(ARGS)

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

$(E2E)/venv/.made: requirements.txt requirements-test.txt requirements-e2e.txt
	@$(NEW_ENOUGH)
	$(PYTHON) -m venv $(E2E)/venv
	$(E2E)/venv/bin/python -m pip install --quiet -r requirements-e2e.txt
	@touch $@

# PyPI's torch for Linux brings gigabytes of CUDA. PyTorch's own index has a build for the CPU, which pip prefers as the
# higher version (2.13.0+cpu); where there is none (macOS), or the index cannot be reached, PyPI's is taken. A pip
# command of its own, so that only torch and what it needs are looked for there.
$(E2E)/open-webui/.made: requirements-open-webui.txt
	@$(NEW_ENOUGH)
	$(PYTHON) -m venv $(E2E)/open-webui
	$(E2E)/open-webui/bin/python -m pip install --quiet --extra-index-url https://download.pytorch.org/whl/cpu \
		"$$(grep -o '^torch==[^ ]*' requirements-open-webui.txt)"
	$(E2E)/open-webui/bin/python -m pip install --quiet -r requirements-open-webui.txt
	@touch $@

clean:
	rm -rf $(VENV) $(E2E) .bench .cli state
