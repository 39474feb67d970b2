# Everything a contributor types. Needs Python 3.10 or newer and make; `make demo` and `make test` set up the rest.

PYTHON ?= $(shell for candidate in python3 python3.13 python3.12 python3.11 python3.10; do \
    "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1 && { echo "$$candidate"; break; }; \
  done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
COMPILED_VENV := .venv-compiled
COMPILED_READY := $(COMPILED_VENV)/.ready
CORE_TESTS := tests/unit tests/properties tests/simulation tests/conformance
BENCH_VENV := benchmarks/.venv
BENCH_BIN := $(BENCH_VENV)/bin
BENCH_READY := $(BENCH_VENV)/.ready
TEST_ARGS ?=
EXPLORE_ROUNDS ?= 10
BENCH_ARGS ?= --quick

.DEFAULT_GOAL := help
.PHONY: help demo test explore compiled test-compiled lint format bench clean

help:
	@echo 'make demo    run the example suite on four runners of this machine'
	@echo 'make test    run the tests             (TEST_ARGS="tests/core -k lease")'
	@echo 'make explore run the property tests on examples that nobody has tried yet   (EXPLORE_ROUNDS=$(EXPLORE_ROUNDS))'
	@echo 'make lint    ruff, mypy --strict, import-linter'
	@echo 'make compiled, make test-compiled   the core compiled with mypyc in $(COMPILED_VENV); needs a C compiler'
	@echo 'make format  let ruff reformat'
	@echo 'make bench   compare with pytest and pytest-xdist   (BENCH_ARGS="--case noop-2 --repeat 5")'
	@echo 'make clean   remove what was made here'

demo: $(READY)
	@sh examples/quickstart/demo.sh $(BIN)

# Hundreds of processes are started: from compiled modules, also where PYTHONDONTWRITEBYTECODE is set. (pytest compiles
# those of its plugins itself, in the first process that may keep them.)
test: export PYTHONDONTWRITEBYTECODE :=
test: $(READY)
	$(BIN)/python -m compileall -q src
	$(BIN)/python -m pytest $(TEST_ARGS)

explore: $(READY)
	@for round in $$(seq $(EXPLORE_ROUNDS)); do \
	  echo "round $$round of $(EXPLORE_ROUNDS)"; \
	  $(BIN)/python -m pytest -q -m hypothesis --hypothesis-profile=explore $(or $(TEST_ARGS),tests/properties tests/unit) || exit; \
	done

compiled: $(COMPILED_READY)

test-compiled: $(COMPILED_READY)
	$(COMPILED_VENV)/bin/python -m pytest $(or $(TEST_ARGS),$(CORE_TESTS))

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(BENCH_READY)
	$(BENCH_BIN)/python benchmarks/compare.py $(BENCH_ARGS)

# The stamp is touched last: an interrupted installation is done again.
$(READY): pyproject.toml
	@$(check_python)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

# Not editable: what is compiled stays what it was when it was built.
$(COMPILED_READY): pyproject.toml hatch_build.py $(shell find src -name '*.py')
	@$(check_python)
	$(PYTHON) -m venv $(COMPILED_VENV)
	HATCH_BUILD_HOOKS_ENABLE=true $(COMPILED_VENV)/bin/python -m pip install --quiet --disable-pip-version-check '.[dev]'
	@touch $@

$(BENCH_READY): pyproject.toml benchmarks/requirements.txt
	@$(check_python)
	$(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[speed]' -r benchmarks/requirements.txt
	@touch $@

clean:
	rm -rf $(VENV) $(COMPILED_VENV) $(BENCH_VENV) benchmarks/results build dist examples/*/.fleetest .fleetest
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

define check_python
test -n "$(PYTHON)" || { echo "make: no Python 3.10 or newer found; install one, or name it: make PYTHON=/path/to/python3.12" >&2; exit 1; }; \
"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "make: $(PYTHON) is not Python 3.10 or newer; name one: make PYTHON=/path/to/python3.12" >&2; exit 1; }; \
"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { echo "make: $(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
endef
