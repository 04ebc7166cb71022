# One command for each wish. `make help` lists them.
.DEFAULT_GOAL := help
.PHONY: help setup lock demo test unit chaos bench bench-peers bench-scale bench-replay lint format up down status doctor clean

BIN := .venv/bin
COMPILE = pip compile pyproject.toml --override requirements/overrides.txt --universal --generate-hashes --no-header --quiet
COMPILE_PEERS = pip compile --universal --python-version 3.11 --generate-hashes --no-header --quiet
ENVIRONMENT := .venv/.installed
JARS := .riskflow/kafka-libs/.installed

help: ## what can be done here
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' Makefile | while IFS="$$(printf '\t')" read -r name what; do printf '  make %-12s %s\n' "$$name" "$$what"; done

setup: $(ENVIRONMENT) $(JARS) ## uv, .venv and Kafka's jars, all inside this folder; costs nothing the second time

$(ENVIRONMENT): requirements/all.txt pyproject.toml ops/setup.sh
	@ops/setup.sh environment

$(JARS): ops/jars/pom.xml ops/setup.sh
	@ops/setup.sh jars

lock: ## resolve the dependencies again: requirements/all.txt and stream.txt, bench/peers/requirements.txt
	@uv=$$(ops/setup.sh uv) && \
	$$uv $(COMPILE) --group airflow --group dev -o requirements/all.txt && \
	$$uv $(COMPILE) -o requirements/stream.txt && \
	$$uv $(COMPILE_PEERS) bench/peers/requirements.in -o bench/peers/requirements.txt

demo: setup ## the whole platform on one screen: history, model, live scores, retraining (ARGS="--json")
	@$(BIN)/riskflow demo $(ARGS)

test: lint ## everything: linters, types, and all tests on real services
	@$(BIN)/pytest -n 2 --dist loadfile $(ARGS)

unit: setup ## tests without services, under a minute
	@$(BIN)/pytest tests/unit $(ARGS)

chaos: setup ## 20,000 events, ten counted kill -9 at the worst moments, outages of 30 s, and all other long tests
	@RISKFLOW_CHAOS_EVENTS=20000 RISKFLOW_CHAOS_KILLS=10 $(BIN)/pytest -s tests/chaos $(ARGS)
	@RISKFLOW_OUTAGE_S=30 $(BIN)/pytest -s -m long $(ARGS)

bench: setup ## how fast the kernel and one worker are on this machine
	@$(BIN)/python -m bench.kernel
	@$(BIN)/python -m bench.stream $(ARGS)

bench-peers: setup ## the same job on Kafka Streams, Bytewax, Quix, Faust and bare loops: docs/benchmarks.md (25 minutes)
	@$(BIN)/python -m bench.compare --write $(ARGS)

bench-scale: setup ## how cost grows with workers, partitions, entities, features, trees, state: docs/benchmarks.md
	@$(BIN)/python -m bench.scale --full --write $(ARGS)

bench-replay: setup ## history through the kernel, and a retraining on 1.5 M transactions
	@$(BIN)/python -m bench.replay $(ARGS)

lint: setup ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: setup ## let ruff mend what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

up: setup ## start Kafka, Redis and Airflow here (ARGS="--no-airflow")
	@$(BIN)/riskflow up $(ARGS)

down: setup ## stop them
	@$(BIN)/riskflow down

status: setup ## what runs, and where
	@$(BIN)/riskflow status

doctor: setup ## what is missing, and the command that repairs it
	@$(BIN)/riskflow doctor

clean: ## remove everything that setup and the services made (not .riskflow/keys or the lake)
	@-[ ! -x $(BIN)/riskflow ] || $(BIN)/riskflow down
	@rm -rf .venv .uv .riskflow/kafka-libs .riskflow/peers .pytest_cache .mypy_cache .ruff_cache
