# Two commands do everything on a fresh machine: `make demo` and `make test`.
# Given are python3 (3.11 or later) and make; all else is installed from requirements.lock (hashes).

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
ARGS   ?=
WORKERS ?= 2

.PHONY: demo test quick check format lint type imports proto sim sim-mutants properties test-moves test-mistakes test-rows test-cluster test-compose test-alerts soak-cluster bench bench-micro check-commits clean install lock

install: $(READY)

$(READY): requirements.lock pyproject.toml scripts/make-venv
	@PYTHON="$(PYTHON)" bash scripts/make-venv $(VENV)
	@touch $@

demo: $(READY)            ## the main job on real flights: forecast, move before the peak, check
	@$(BIN)/logstore demo $(ARGS)

test: check               ## format, lint, types, imports, generated code; then every test
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

QUICK := $(wildcard tests/test_*.py) tests/unit/test_settings.py tests/unit/test_levels.py \
  tests/unit/coordinator/test_golden_figures.py tests/unit/coordinator/test_calls.py \
  tests/unit/client/test_errors.py tests/unit/sharder/test_policies_page.py tests/unit/cli tests/acceptance/howto

quick: $(READY)           ## the tests that look at the whole tree: tables, registries, settings, how-tos
	$(BIN)/python -m pytest -q -n $(WORKERS) $(QUICK) $(ARGS)

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m logstore.proto.generate --check
	$(BIN)/python -m logstore.base.error_reference --check
	$(BIN)/python -m logstore.client.generate --check
	$(BIN)/python -m coordinator.settings_reference --check

BASE ?=

check-commits:            ## subjects of the commits since BASE (default: origin/main)
	@scripts/check-commits $(BASE)

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(READY)
	$(BIN)/ruff check .

type: $(READY)
	$(BIN)/mypy

imports: $(READY)
	$(BIN)/lint-imports

proto: $(READY)
	$(BIN)/python -m logstore.proto.generate

SEEDS ?= 1000

sim: $(READY)             ## the real machines under simulated faults; make sim SEEDS=20000
	$(BIN)/python -m tests.simulation --corpus --seeds $(SEEDS) $(ARGS)

properties: $(READY)      ## the property tests on new examples; prints what reproduces a failure
	HYPOTHESIS_PROFILE=explore $(BIN)/python -m pytest -q -n $(WORKERS) $(wildcard tests/*/sharder \
	  tests/*/profiler tests/*/client tests/*/engine) $(ARGS)

sim-mutants: $(READY)     ## does the simulator see deliberate faults?
	$(BIN)/python -m tests.simulation.mutants $(ARGS)

test-moves: $(READY)      ## ten split-merge-move cycles; kills in every state; late rollbacks
	$(BIN)/python -m pytest -m moves tests/process/migration tests/unit/migration -q $(ARGS)

test-mistakes: $(READY)   ## misplaced folders, stores and names; lost metadata rebuilt; rotten disks
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m mistakes \
	  tests/process/mistakes tests/unit/engine -q $(ARGS)

test-rows: $(READY)       ## each requirement row by the commands of a stranger (docs/requirements.md)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m rows tests/process/rows -q $(ARGS)

test-cluster: $(READY)    ## real processes and etcd on network namespaces, with faults; needs root
	$(BIN)/python -m tests.cluster test $(ARGS)

test-compose: $(READY)    ## the containers of docker-compose.yml under load and faults; needs root
	$(BIN)/python -m tests.compose test $(ARGS)

test-alerts: $(READY)     ## each alert fired once in a real Prometheus, by causing its condition
	$(BIN)/python -m tests.compose alerts $(ARGS)

MINUTES ?= 30
SEED ?= 1

soak-cluster: $(READY)    ## mixed faults under load for MINUTES, by the schedule of SEED; needs root
	$(BIN)/python -m tests.cluster soak --minutes $(MINUTES) --seed $(SEED) $(ARGS)

bench: $(READY)           ## ours beside Kafka, NATS, Redis and the machine's own limits
	$(BIN)/python -m bench compare $(ARGS)

bench-micro: $(READY)     ## the hot paths beside the saved baseline (ratios; machines differ)
	$(BIN)/python -m pytest bench/micro --benchmark-only -q -W ignore::pytest_benchmark.logger.PytestBenchmarkWarning \
	  --benchmark-storage=file://bench/micro/baseline \
	  --benchmark-compare=0001 --benchmark-columns=median,iqr,ops $(ARGS)

lock: $(READY)            ## pin every dependency again, with hashes, without any index address
	$(BIN)/pip install pip-tools
	$(BIN)/pip-compile -q --all-extras --generate-hashes --no-emit-index-url --no-emit-find-links \
	  --no-emit-trusted-host --strip-extras --allow-unsafe --no-header -o requirements.lock pyproject.toml

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache demo-report.json
