# Every target works on a fresh clone: what it needs is installed first, from the lock, into .venv.
.DEFAULT_GOAL := help
PYTHON ?= python3
NNEXP := .venv/bin/nnexp
COMPILE := .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
    --custom-compile-command 'make lock'
# Importing MLflow without compiled bytecode takes twice as long, every time.
unexport PYTHONDONTWRITEBYTECODE
# The system's certificates, where it has any: a proxy's own one is among them, and not in pip or uv.
CERTIFICATES = $(shell $(PYTHON) -c 'import ssl; print(ssl.get_default_verify_paths().cafile or "")')
.venv/installed bench lock: export PIP_CERT ?= $(CERTIFICATES)
.venv/installed bench lock: export UV_SYSTEM_CERTS ?= $(if $(CERTIFICATES),true,false)

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-14s%s\n", $$1, $$2 }' Makefile

install: .venv/installed ## install into .venv from requirements.lock

.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("nnexp needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + "; name another: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	@sed -n '/^uv==/,/[^\\]$$/p' requirements.lock > .venv/uv.lock
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r .venv/uv.lock
	.venv/bin/uv pip sync --quiet --python .venv/bin/python --require-hashes requirements.lock
	.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
	@touch $@

run: install ## the default experiment: gender and XOR, learning rates, initialisations, seeds
	@$(NNEXP) train experiment=learning_rate_init

sweep: install ## a sweep of your own: make sweep ARGS="learning_rate=0.1,0.5 seed=range(5)"
	@$(NNEXP) train -m $(ARGS)

summary: install ## summarise what is recorded: make summary ARGS="--by init"
	@$(NNEXP) summarize $(ARGS)

ui: install ## the MLflow UI on http://127.0.0.1:5000
	@$(NNEXP) ui

experiments: install ## run every experiment of experiments/ and write its report
	@.venv/bin/python -m experiments.report

screenshots: install ## the docs' pictures of the MLflow UI, taken in a real browser
	@NNEXP_CI=1 .venv/bin/python -m pytest tests/program/test_browser.py
	@for page in runs charts sweep; do cp tests/program/screenshots/$$page.png experiments/reports/ui_$$page.png; done

notebook: install ## run experiments/walkthrough.ipynb and keep its outputs
	@.venv/bin/python -m experiments.walkthrough

docs: install ## write docs/reference/keys.md and verbs.md from the program
	@.venv/bin/python -m docs.reference.generate

figures: install ## the pictures of the README and docs, from real runs
	@.venv/bin/python -m experiments.figures

test: install ## the whole test suite
	@.venv/bin/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -rs $(ARGS)

check: lint ## style, types and the quick tests, in about a minute
	@.venv/bin/python -m pytest -n auto --dist loadfile -m "not slow"

test-faults: install ## do to the program what happens to programs, and look; rerun 1,000 runs elsewhere: make test-faults N=100 SEED=0 ONLY="during a sweep"
	@.venv/bin/python -m tests.faults.matrix --trials $(or $(N),10) --seed $(or $(SEED),0) --only "$(ONLY)" $(if $(WRITE),--write)
	$(if $(ONLY),,@.venv/bin/python -W ignore tests/faults/rerun_everything.py)

test-statistics: install ## simulate sweeps: do intervals cover, are alike settings told apart? by hand with N=10000 WRITE=1
	@.venv/bin/python -m tests.analysis.calibration --sweeps $(or $(N),800) --seed $(or $(SEED),0) $(if $(WRITE),--write)

lint: install ## style, types
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy

bench: install ## measure the engine beside JAX, NumPy and C, and sweeps beside Hydra + MLflow; writes tests/benchmarks/*.md
	@.venv/bin/uv pip install --quiet --python .venv/bin/python --require-hashes -r tests/benchmarks/requirements.lock
	@.venv/bin/python tests/benchmarks/bench_engine.py
	@.venv/bin/python tests/benchmarks/bench_sweep.py

lock: install ## resolve both lock files anew
	$(COMPILE) --group dev --all-extras pyproject.toml --output-file requirements.lock
	$(COMPILE) --group bench --constraint requirements.lock --output-file tests/benchmarks/requirements.lock

clean: ## remove .venv and caches; the recorded runs stay
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis

.PHONY: help install check run sweep summary ui experiments docs figures notebook screenshots test test-faults test-statistics lint bench lock clean
