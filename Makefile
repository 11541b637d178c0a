# make demo and make test set everything up themselves: a virtual environment in .venv with pinned dependencies.

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	if $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then echo $$p; break; fi; done)
BIN := .venv/bin
STAMP := .venv/.installed
# many threads on few cores are slower than one, and results repeat to the bit
THREADS := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
WORKERS ?= 2
CORE_PYTHON ?= $(abspath $(BIN)/python)

.PHONY: help core demo test test-long lint typecheck unit bench bench-quick calibrate clean

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(STAMP) ## the main job on three real data sets, with pictures, in under 90 seconds
	$(BIN)/python examples/demo.py

test: lint typecheck unit ## lint, type check and the tests, but for the long ones

lint: $(STAMP) ## ruff: rules and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

typecheck: $(STAMP) ## pyright on the package
	$(BIN)/pyright

unit: $(STAMP)
	$(THREADS) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -q

bench: $(STAMP) ## all benchmarks beside their peers (minutes)
	$(BIN)/python benchmarks/run.py

bench-quick: $(STAMP) ## the same, small sizes
	$(BIN)/python benchmarks/run.py --quick

test-long: $(STAMP) ## the tests that make test leaves out: at length what quicker ones guard
	$(THREADS) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -q -m long

calibrate: test-long ## the long tests, and simulation-based calibration of the built-in models
	$(THREADS) $(BIN)/python benchmarks/calibrate.py

core: ## the compiled core, built in place after work on core/src
	cmake -S core -B build/core -G Ninja -DPython_EXECUTABLE=$(CORE_PYTHON)
	cmake --build build/core

clean: ## removes what was made, the virtual environment too
	rm -rf .venv dist build demo-output .pytest_cache .ruff_cache .hypothesis core/CMakeFiles core/CMakeCache.txt latentvars/kernels/_core.*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt core/CMakeLists.txt $(wildcard core/src/*)
	@test -n "$(PYTHON)" || { \
		echo "No Python 3.11 or newer was found: install one, or name it: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON) is $$($(PYTHON) --version 2>&1), needed: Python 3.11 or newer;" \
			"name another: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[test,dev]'
	@touch $@
