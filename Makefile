# Every target works on a fresh clone: it first installs what it needs, from the lock file, into .venv.
.DEFAULT_GOAL := help
PYTHON ?= python3
NNEXP := .venv/bin/nnexp
COMPILE := .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
    --custom-compile-command 'make lock'
# Importing MLflow without compiled bytecode takes twice as long, every time.
unexport PYTHONDONTWRITEBYTECODE
# Use the system's certificates, if there are any: they include a proxy's own one, which pip and uv do not have.
CERTIFICATES = $(shell $(PYTHON) -c 'import ssl; print(ssl.get_default_verify_paths().cafile or "")')
.venv/installed test-machines bench lock: export PIP_CERT ?= $(CERTIFICATES)
.venv/installed test-machines bench lock: export UV_SYSTEM_CERTS ?= $(if $(CERTIFICATES),true,false)

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-14s%s\n", $$1, $$2 }' Makefile

install: .venv/installed ## install into .venv from requirements.lock

.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("nnexp needs Python 3.11 or newer, but $(PYTHON) is " + sys.version.split()[0] + "; name another: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	@sed -n '/^uv==/,/[^\\]$$/p' requirements.lock > .venv/uv.lock
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r .venv/uv.lock
	.venv/bin/uv pip sync --quiet --python .venv/bin/python --require-hashes requirements.lock
	.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
	@touch $@

run: install ## run the first experiment: activations, optimizers and learning rates on three real tables
	@$(NNEXP) train experiment=real_tables

sweep: install ## run your own sweep: make sweep ARGS="learning_rate=0.1,0.5 seed=range(5)"
	@$(NNEXP) train -m $(ARGS)

summary: install ## summarise the recorded runs: make summary ARGS="--by init"
	@$(NNEXP) summarize $(ARGS)

ui: install ## serve the MLflow UI on http://127.0.0.1:5000
	@$(NNEXP) ui

experiments: install ## run the experiments, write their reports and docs/findings.md: make experiments QUICK=1 ONLY=shift
	@.venv/bin/python -m experiments.report $(if $(QUICK),--quick) $(ONLY)

screenshots: install ## take the docs' pictures of the MLflow UI in a real browser
	@NNEXP_CI=1 .venv/bin/python -m pytest tests/program/test_browser.py
	@for page in runs charts sweep; do cp tests/program/screenshots/$$page.png experiments/reports/ui_$$page.png; done

notebook: install ## run experiments/walkthrough.ipynb and keep its outputs
	@.venv/bin/python -m experiments.walkthrough

docs: install ## write docs/reference/keys.md and verbs.md from the program
	@.venv/bin/python -m docs.reference.generate

figures: install ## draw the pictures of the README and docs from real runs
	@.venv/bin/python -m experiments.figures

SERVICES = $(addprefix tests/,program/test_services.py program/test_browser.py program/test_auth.py training/test_distribute.py)
# One process more than there are cores, because some tests only wait.
test: PROCESSES = $(shell $(PYTHON) -c 'import os; print((os.cpu_count() or 1) + 1)')
test: install ## run the whole test suite, but for the targets below
	@.venv/bin/python -m pytest -n $(PROCESSES) --dist loadfile --no-loadscope-reorder -rs $(foreach file,tests/program/test_wheel.py $(SERVICES),--ignore $(file)) $(ARGS)

test-services: install ## test with real servers, worker processes, clusters and a browser, which wait a lot
	@.venv/bin/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -rs $(SERVICES)

test-wheel: install ## build the wheel, install it in a new environment from the package index, and use it there
	@.venv/bin/python -m pytest tests/program/test_wheel.py

check: lint ## check style and types, and run the quick tests, in about a minute
	@.venv/bin/python -m pytest -n auto --dist loadfile -m "not slow"

test-faults: install ## test the program under faults, and rerun 1,000 runs from a second clone: make test-faults N=100 SEED=0 ONLY="during a sweep"
	@.venv/bin/python -m tests.faults.matrix --trials $(or $(N),10) --seed $(or $(SEED),0) --only "$(ONLY)" $(if $(WRITE),--write)
	$(if $(ONLY),,@.venv/bin/python -W ignore tests/faults/rerun_everything.py)

test-statistics: install ## simulate sweeps: do intervals cover, are alike settings told apart? by hand with N=10000 WRITE=1
	@.venv/bin/python -m tests.analysis.calibration --sweeps $(or $(N),800) --seed $(or $(SEED),0) $(if $(WRITE),--write)

test-machines: install ## compare bits with emulated ARM, a CPU without FMA, other NumPys and Numbas: make test-machines ONLY=ARM
	@.venv/bin/python -m tests.machines.compare "$(ONLY)"

test-cuda: install ## compare bits with a CUDA device, and measure it, if there is one and nnexp[cuda]: make test-cuda ONLY=speed
	@.venv/bin/python -m tests.machines.cuda $(ONLY)

lint: install ## check style and types
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy

bench: install ## measure the engine beside JAX, scikit-learn, NumPy and C, and sweeps beside Hydra + MLflow; writes tests/benchmarks/*.md
	@.venv/bin/uv pip install --quiet --python .venv/bin/python --require-hashes -r tests/benchmarks/requirements.lock
	@.venv/bin/python tests/benchmarks/bench_draws.py
	@.venv/bin/python tests/benchmarks/bench_engine.py
	@.venv/bin/python tests/benchmarks/bench_tables.py
	@.venv/bin/python -m tests.benchmarks.bench_floor
	@.venv/bin/python tests/benchmarks/bench_sweep.py
	@.venv/bin/python tests/benchmarks/bench_search.py
	@.venv/bin/python tests/benchmarks/bench_pruning.py

# Without the extra cuda, which is large and of use to few.
lock: install ## resolve both lock files again
	$(COMPILE) --group dev --extra postgres --extra dask pyproject.toml --output-file requirements.lock
	$(COMPILE) --group bench --constraint requirements.lock --output-file tests/benchmarks/requirements.lock

clean: ## remove .venv and caches, but not the recorded runs
	rm -rf .venv .machines .mypy_cache .pytest_cache .ruff_cache .hypothesis

.PHONY: help install check run sweep summary ui experiments docs figures notebook screenshots test test-wheel test-faults test-machines test-cuda test-statistics lint bench lock clean
