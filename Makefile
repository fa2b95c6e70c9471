# Two commands matter: `make up` and `make test`. Both install what they need into .venv first.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=
TEXT ?=

.PHONY: up test test-fast lint bench docs console clean install install-test

up: install console
	$(BIN)/oliveira up $(if $(TEXT),--text "$(TEXT)") $(ARGS)

test: install-test console lint
	$(BIN)/pytest

test-fast: install-test
	$(BIN)/pytest -m "not slow" tests/unit tests/contract tests/parity tests/learn

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

install: .venv/.core
install-test: .venv/.test

.venv/.core: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

.venv/.test: .venv/.core
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[test,lint]"
	touch $@

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
