.DEFAULT_GOAL := help
.PHONY: help demo test check bench lock reference clean
BENCH ?= all
export PYTHON

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## Run a real workflow on a local session of its own, and leave nothing running
	@tools/setup.sh base
	@tools/demo.sh

test: ## Set up what the tests need and run them all
	@tools/setup.sh dev
	@tools/setup.sh agents
	@tools/setup.sh browser
	@tools/test.sh

check: ## Format, lint, types, layers, migrations (under 30 s)
	@tools/setup.sh dev
	@.venv/bin/ruff check .
	@.venv/bin/basedpyright --level error
	@.venv/bin/lint-imports --no-cache
	@.venv/bin/squawk src/flakes/store/migrations/*.sql

bench: ## Measure: make bench [BENCH=throughput] [N=10000]
	@tools/setup.sh dev
	@N=$(N) .venv/bin/python -m bench $(BENCH)

reference: ## Write docs/reference from the code
	@tools/setup.sh dev
	@.venv/bin/python tools/reference.py

lock: ## Compile requirements/*.txt from pyproject.toml
	@tools/setup.sh dev
	@.venv/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header pyproject.toml --group build -o requirements/base.txt
	@.venv/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -c requirements/base.txt pyproject.toml --group build --group test --group check -o requirements/dev.txt

clean: ## Remove .venv and caches
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist
