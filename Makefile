# Everything here runs from a clean clone: `make` lists the targets, and each one sets up .venv first if it must.
VENV ?= .venv
PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)
BIN := $(VENV)/bin
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help venv quickstart test sweep conformance bench reasoning ablation soak fuzz crash audit docs style quality clean

help:  ## This list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

venv: $(VENV)/.installed  ## Install the package, its extras and the tools into .venv, at the versions of constraints.txt

# The stamp comes last, so an installation that was cut short is taken up again.
$(VENV)/.installed: pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "got PYTHON='$(PYTHON)', which is no Python 3.11 or later; expected one on the PATH;" \
			"install Python 3.11, or name one: make venv PYTHON=/path/to/python3.11" >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[quickstart,dev]'
	@touch $@

quickstart: venv  ## Real text to a trained model, a report and a search (ARGS="..." for options)
	HF_HUB_OFFLINE=1 $(BIN)/lira quickstart $(ARGS)

test: venv  ## All tests, offline, one process a core (ARGS="tests/losses -k queue" for some)
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist loadscope $(ARGS)

sweep: venv  ## LiRA over every decoder-only LM that transformers knows (ARGS="llama mamba" for some)
	HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error OMP_NUM_THREADS=1 $(BIN)/python tests/sweep/run_sweep.py $(ARGS)

conformance: venv  ## Transformers' own tests, of the installed version, on LiRA's classes
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python tests/conformance/run_conformance.py $(ARGS)

bench: venv  ## Benchmarks, about twenty minutes, best on an idle machine; docs/performance.md has what they find
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench_features.py
	$(BIN)/python benchmarks/bench_store.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench_losses.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench_generation.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench_embedding.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench_import.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench_search.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench_growth.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench_peers.py
	$(BIN)/python benchmarks/report.py

soak: venv  ## Threads embed, search and generate on one model for 30 minutes; memory must stay flat
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python tests/soak/run_soak.py --minutes 30 $(ARGS)

crash: venv  ## SIGKILL at random moments of translating, judging, caching, training, embedding, saving
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python tests/crash/run_crashes.py $(ARGS)

audit: venv  ## Versions and licences of what is installed, and whether they fit together
	$(BIN)/python tests/security/audit_dependencies.py $(ARGS)

fuzz: venv  ## The parsers under coverage-guided fuzzing; fetches atheris by pip (ARGS="po --seconds 60")
	$(BIN)/python -m pip install --quiet atheris
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/run_fuzz.py $(ARGS)

reasoning: venv  ## Word problems in seven languages through an English LM: trained from nothing, measured, on 2 cores
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python examples/number_words/reasoning.py $(ARGS)

ablation: venv  ## What each part of LiRA is worth on the quickstart's data: ablations, controls, a report
	HF_HUB_OFFLINE=1 $(BIN)/lira ablate --quickstart runs/quickstart-cldr --seeds 1 --only "no translation critic" \
		--only "no embedding critic" --only "no translation" --only "no multilingual encoder" \
		--only "with a DocQueue of 1,024" --only MindMerger-style $(ARGS)

docs: venv  ## The API reference and the list of symbols, from the docstrings
	$(BIN)/python docs/api/generate.py

style: venv  ## Format, and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

quality: venv  ## Lint, format, types, and the order of the rooms; changes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

clean:  ## Remove .venv, caches and builds; runs/ stays
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache src/*.egg-info
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
