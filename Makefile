# The whole interface for people. Each target builds .venv first if it is missing or out of date.
#   make demo ARGS="--keep"        ARGS is handed on, here and to make test

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: demo test check fix setup base clean help

# The stamp's name holds what was installed: a change of either file makes the environment out of date.
READY := .venv/.ready-$(shell cat pyproject.toml constraints.txt | cksum | cut -d ' ' -f 1)

$(READY):
	@.ci/setup $@

setup: $(READY)  ## build .venv, or bring it up to date

demo: $(READY)  ## run the whole system on this machine; the report goes to out/demo/
	@.venv/bin/instructdiffusion demo $(ARGS)

base: $(READY)  ## train the embedded base model again (hours)
	@.venv/bin/instructdiffusion base $(ARGS)

test: $(READY)  ## run the tests
	@.venv/bin/pytest $(ARGS)

check: $(READY)  ## lint, formatting, types, import contracts, links in docs
	@.venv/bin/ruff check
	@.venv/bin/ruff format --check
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-cache --no-logo
	@.venv/bin/pytest --quiet tests/test_docs.py

fix: $(READY)  ## mend what ruff can mend, and format
	@.venv/bin/ruff check --fix
	@.venv/bin/ruff format

clean:  ## remove caches and builds; .venv and out/ stay
	@rm -rf build dist .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find model components pipelines serving labeling tests -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
