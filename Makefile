# One command for each wish. `make help` lists them.
.DEFAULT_GOAL := help
.PHONY: help setup lock demo test unit chaos lifecycle cluster bench bench-peers bench-scale bench-replay bench-score lint format up down status doctor clean

BIN := .venv/bin
COMPILE = pip compile pyproject.toml --override requirements/overrides.txt --universal --generate-hashes --no-header --quiet
COMPILE_PEERS = pip compile --universal --python-version 3.11 --generate-hashes --no-header --quiet
ENVIRONMENT := .venv/.installed
JARS := .riskflow/kafka-libs/.installed
MIX = --zombies 1 --rescales 1 --broker-kills 1 --redis-kills 1 --redis-lost-second 2 --failovers 1 --stalls 3 --disk-full 1 \
	--swaps 5 --publish-kills 1 --publish-races 1 --besides 1 --sigterms 1 --clock-steps 1 --start-bursts 1

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
	@$(BIN)/pytest -n 2 --no-loadscope-reorder $(ARGS)

unit: setup ## tests without services, training and Airflow, under a minute
	@$(BIN)/pytest -n 2 -m "not learns and not long and not airflow" tests/unit $(ARGS)

chaos: setup ## ten minutes of kills, zombies, outages and swaps while events flow; then all other long tests
	@$(BIN)/riskflow chaos --events 60000 --kills 16 $(MIX) $(ARGS)
	@$(BIN)/pytest -n 2 -m long tests/unit/test_model.py
	@RISKFLOW_OUTAGE_S=30 $(BIN)/pytest -s -m long --ignore tests/unit/test_model.py

lifecycle: setup ## a model's whole life in Airflow, each step asserted: race, approval, canary, drift, refusal, rollback
	@$(BIN)/riskflow lifecycle $(ARGS)

cluster: setup ## the stream on a Redis Cluster of three masters, with kills
	@$(BIN)/pytest -s -m cluster tests/cluster $(ARGS)

bench: setup ## how fast the kernel and one worker are on this machine
	@$(BIN)/python -m bench.kernel
	@$(BIN)/python -m bench.stream $(ARGS)

bench-peers: setup ## the same job on Kafka Streams, Bytewax, Quix, Faust and bare loops: docs/benchmarks.md (25 minutes)
	@$(BIN)/python -m bench.compare --write $(ARGS)

bench-scale: setup ## how cost grows with workers, partitions, entities, features, trees, state: docs/benchmarks.md
	@$(BIN)/python -m bench.scale --full --write $(ARGS)

bench-replay: setup ## history through the kernel, and a retraining on 1.5 M transactions
	@$(BIN)/python -m bench.replay $(ARGS)

bench-score: setup ## batch scoring and a backtest of an archive of 1.5 M events
	@$(BIN)/python -m bench.score_batch $(ARGS)

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
