# Two commands do everything: `make demo` and `make test`. They need Python 3.11+ and make. With Node 20+ the TypeScript in console/ is
# checked and tested too; without it that is left out, and said so.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PEERS  := .venv-peers
NODE   := $(shell node -e 'process.stdout.write(process.versions.node.split(".")[0] >= 20 ? "yes" : "old")' 2>/dev/null)
NPM    := npm --prefix console --no-update-notifier
MODULES := console/node_modules/.installed

.DEFAULT_GOAL := help
.PHONY: help setup console-setup console-check demo test check format bench bench-peers lock clean

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) console-setup ## Make .venv (and console/node_modules) with everything, from the lock files

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Aura needs Python 3.11 or newer; try make PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Setting up $(VENV): a minute or two the first time."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

ifeq ($(NODE),yes)
console-setup: $(MODULES)

console-check: console-setup
	$(NPM) run --silent check
else
console-setup console-check:
	@echo "No Node 20 or newer here: the TypeScript in console/ is neither checked nor tested."
endif

$(MODULES): console/package-lock.json console/package.json
	$(NPM) ci --silent
	@touch $@

demo: $(STAMP) ## Start everything, run a real PRD on this checkout, print the URL
	$(BIN)/aura up --demo

test: setup console-check ## Run every test (real nats-server and Postgres, started by the tests)
	$(BIN)/python -m pytest

check: setup ## Format, lint, types, contracts, tests: what CI runs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) --no-print-directory console-check
	$(BIN)/python -m pytest

format: setup ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
ifeq ($(NODE),yes)
	$(NPM) run --silent format
endif

bench: setup ## Measure, as ratios against baselines of the same run
	$(BIN)/python -m bench

bench-peers: setup $(PEERS)/.installed ## Compare with other Python job queues, same machine, same run
	$(BIN)/python -m bench.peers

$(PEERS)/.installed: pyproject.toml
	$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python $(PEERS)
	$(BIN)/uv pip install --quiet --python $(PEERS)/bin/python --group bench
	@touch $@

lock: setup ## Resolve the dependencies anew
	$(BIN)/uv pip compile pyproject.toml --group dev --generate-hashes --no-emit-index-url --universal --python-version 3.11 -q -o requirements.lock

clean: ## Remove everything that make made (not your data in .aura)
	rm -rf $(VENV) $(PEERS) console/node_modules console/dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
