# Ratchet's workshop; `make help` says what there is.
SHELL := bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
UV_VERSION := 0.13.9
BIN := .venv/bin
STAMP := .venv/.installed

# TORCH_BACKEND=cpu (or auto) takes another build of torch than the package index's own: smaller on a laptop. The lock
# has no hashes of those builds, so hashes are not checked then.
BACKEND := $(if $(TORCH_BACKEND),--torch-backend=$(TORCH_BACKEND) --no-verify-hashes)

.PHONY: help setup up test chaos check format docs lock kafka kafka-stop postgres postgres-stop bento clean bench bench-swap bench-overload bench-soak bench-batching bench-recording bench-consumer

help: ## show this list
	@echo "make TARGET [ARGS=...] [PYTHON=python3.12] [TORCH_BACKEND=cpu|auto]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## install everything into .venv (again only when pyproject.toml or the lock has changed)

up: $(STAMP) ## train the first model and start the whole loop on http://127.0.0.1:3000; Ctrl-C ends it
	@$(BIN)/ratchet up $(ARGS)

test: $(STAMP) ## run all tests, or by ARGS="tests/core -x" some; KAFKA_BOOTSTRAP and POSTGRES_URL name real servers
	@$(if $(strip $(ARGS)),$(BIN)/pytest $(ARGS),$(BIN)/python scripts/suite.py)

chaos: $(STAMP) ## 100,000 corrections while service, consumer and log are killed, disk full (ARGS="--kafka --count 20000")
	$(BIN)/python -m tests.chaos.run $(ARGS)

check: $(STAMP) ## lint, types, import rules, the lock and the generated documents; all of them, then the verdict
	@failed=""; run() { echo "$$*"; "$$@" || failed="$$failed $${1##*/}"; }; \
	run $(BIN)/ruff check .; \
	run $(BIN)/ruff format --check .; \
	run $(BIN)/mypy; \
	run $(BIN)/lint-imports; \
	run $(BIN)/python scripts/lock.py check; \
	run $(BIN)/python scripts/docs.py check; \
	if [ -n "$$failed" ]; then echo "failed:$$failed" >&2; exit 1; fi

format: $(STAMP) ## format the code and repair what can be repaired
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

docs: $(STAMP) ## write the documents that are made from the code
	$(BIN)/python scripts/docs.py write

lock: $(STAMP) ## resolve all dependencies anew into requirements.lock (ARGS=--upgrade for newer versions)
	$(BIN)/python scripts/lock.py write $(ARGS)

kafka: ## start a real Kafka broker on 127.0.0.1:9092 (Java 17, Maven)
	@scripts/kafka.sh start

kafka-stop: ## stop it
	@scripts/kafka.sh stop

postgres: ## start a PostgreSQL of the project's own and print its URL
	@scripts/postgres.sh start

postgres-stop: ## stop it
	@scripts/postgres.sh stop

bento: $(STAMP) ## build the Bento of the service
	PATH="$(CURDIR)/$(BIN):$$PATH" BENTOML_DO_NOT_TRACK=True $(BIN)/bentoml build $(ARGS)

bench: $(STAMP) ## serving beside the peers, about 45 minutes (ARGS="--quick" to try it); the report is in .bench/report
	$(BIN)/python -m benchmarks.serving $(ARGS)

bench-swap: $(STAMP) ## 100 swaps under load, rollbacks, memory over 200 more (ARGS="--head-only")
	$(BIN)/python -m benchmarks.serving.swap $(ARGS)

bench-overload: $(STAMP) ## ten times saturation for a minute, then clients that misbehave
	$(BIN)/python -m benchmarks.serving.overload $(ARGS)

bench-soak: $(STAMP) ## 15 minutes with a swap every 20 seconds and feedback
	$(BIN)/python -m benchmarks.serving.soak $(ARGS)

bench-batching: $(STAMP) ## the batcher against counting, on texts of skewed lengths
	$(BIN)/python -m benchmarks.serving.batching $(ARGS)

bench-recording: $(STAMP) ## what recording and feedback cost a prediction
	$(BIN)/python -m benchmarks.serving.recording $(ARGS)

bench-consumer: $(STAMP) ## interactions a second that one feedback consumer takes
	$(BIN)/python -m benchmarks.consumer $(ARGS)

clean: ## remove what was installed, built and cached; state in .ratchet, .kafka, .postgres and .bench stays
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache dist build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Ratchet needs Python 3.11 or newer, '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true)." \
	    "Name another one: make $(or $(firstword $(MAKECMDGOALS)),setup) PYTHON=python3.12" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { rm -rf .venv; \
	  echo "'$(PYTHON) -m venv' does not work; on Debian: apt install python3-venv" >&2; exit 2; }
	@$(BIN)/uv --version 2>/dev/null | grep -qF "uv $(UV_VERSION)" || \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	VIRTUAL_ENV="$(CURDIR)/.venv" $(BIN)/uv pip install -c requirements.lock -e '.[all]' --group dev $(BACKEND)
	@touch $@
