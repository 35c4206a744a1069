# The whole interface for people. Each target builds .venv first if it is missing or out of date.
#   make demo ARGS="--keep"        ARGS is handed on, here, to make test and to make label-studio
#   make demo RANK=label-studio    edits are ranked through a Label Studio server

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
unexport PYTHONDONTWRITEBYTECODE # where it is set, each of hundreds of processes compiles all its libraries again
.PHONY: demo test check fix setup environments base bench experiments soak label-studio clean help

# The stamps' names hold what was installed: a change of these files makes an environment out of date.
READY := .venv/.ready-$(shell cat pyproject.toml constraints.txt | cksum | cut -d ' ' -f 1)
LABELS := .venv-label-studio/.ready-$(shell cksum < labeling/label-studio.txt | cut -d ' ' -f 1)

$(READY):
	@.ci/setup $@ --constraint constraints.txt --editable '.[dev]'

$(LABELS):  # apart: the server's pins suit no other program
	@.ci/setup $@ --requirement labeling/label-studio.txt

setup: $(READY)  ## build .venv, or bring it up to date

environments: $(READY) $(LABELS)  ## build both environments, with --jobs 2 at once

demo: $(READY) $(if $(filter label-studio,$(RANK)),$(LABELS))  ## run the whole system on this machine; the report goes to out/demo/
	@.venv/bin/instructdiffusion demo $(if $(RANK),--rank $(RANK)) $(ARGS)

base: $(READY)  ## train the embedded base model again (hours)
	@.venv/bin/instructdiffusion base $(ARGS)

bench: $(READY)  ## measure speed and memory again, and write docs/performance.md (an hour)
	@.venv/bin/python bench/data.py $(ARGS)
	@.venv/bin/python bench/start.py
	@.venv/bin/python bench/nano.py
	@.venv/bin/python bench/evaluate.py
	@.venv/bin/python bench/train.py
	@.venv/bin/python bench/plan.py
	@.venv/bin/python bench/figures.py

experiments: $(READY)  ## test the paper's claims again, and write what docs/experiments.md shows (hours)
	@for name in multitask instructions alignment; do \
		.venv/bin/instructdiffusion experiment $$name --out out/experiments/$$name-full && \
		mkdir -p docs/experiments/$$name && cp out/experiments/$$name-full/experiment.* docs/experiments/$$name/ || exit; \
	done

soak: $(READY)  ## kill a training 20 times, look whether anything was lost, and write docs/performance.md (minutes)
	@.venv/bin/python bench/soak.py $(ARGS)
	@.venv/bin/python bench/figures.py

label-studio: $(READY) $(LABELS)  ## start the annotators' server on this machine
	@.venv/bin/instructdiffusion label serve $(ARGS)

test:  ## run the tests
	@$(MAKE) --no-print-directory --jobs 2 environments
	@.venv/bin/pytest --numprocesses 2 --dist loadgroup --no-loadscope-reorder $(ARGS)

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
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
