# Each target makes the virtual environment it needs; nothing is to be installed first but Python 3.11+ and make.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo test torture lint format bench bench-recovery bench-peers bench-batch clean
help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed; make PYTHON=python3.12 ..."'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[archive,broker,columns,package,spark,topologies,dev]'
	touch $@

demo: .venv/installed ## a broker, 500,000 ad events, a worker that is killed, a batch, and exact answers
	$(BIN)/python -m topologies.demo

test: .venv/installed ## all tests, on a real Kafka (started by itself) and a real RocksDB
	$(BIN)/python -m pytest

torture: .venv/installed ## ten minutes of faults: kill -9 at every durable step, zombies, broker restarts, lost disks
	$(BIN)/python -m tests.life.torture --schedules 1000 --minutes 10

lint: .venv/installed ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/installed ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/installed ## views, batch and queries beside a bare consume loop; what exactly-once, joins and takeovers cost
	$(BIN)/python -m benchmarks.layers
	$(BIN)/python -m benchmarks.reliability

bench-recovery: .venv/installed ## kill -9 to the first new commit, beside Kafka Streams and Quix Streams
	$(BIN)/python -m benchmarks.recovery --session-timeout 3

bench-peers: .venv/installed ## the same jobs on Faust, Quix, Bytewax, Pathway, Kafka Streams, Flink, Spark (an hour or two)
	$(BIN)/python -m benchmarks.peers

bench-batch: .venv/installed ## word count and the Yahoo job beside Spark, DuckDB, polars, mrjob (10 million records)
	$(BIN)/python -m benchmarks.batch

clean: ## remove the virtual environment and the demo's data
	rm -rf .venv .streamkit
