# make demo   the main job, on this machine          make test   the tests
# Both install what they need into .venv first; nothing outside of this folder is touched.
SHELL := /bin/bash
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
NODE_STAMP := $(VENV)/.node-installed
export CLEANROOM_NODE_DIR := $(CURDIR)/$(VENV)/node
# Container images often set it. Dozens of processes would then each compile some 1,500 modules again: three seconds, every time.
unexport PYTHONDONTWRITEBYTECODE
# For Java: the classes that Spark loads, ready to be mapped (tests/spark_archive.py). What Java has to say of it does not concern Spark.
SPARK_ARCHIVE := $(VENV)/spark.jsa
WITH_ARCHIVE = JDK_JAVA_OPTIONS='-XX:+IgnoreUnrecognizedVMOptions "-XX:SharedArchiveFile=$(CURDIR)/$(SPARK_ARCHIVE)" -Xlog:disable -Xlog:all=error:stderr'
PYTEST_ARGS ?=
DEMO_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup check demo test lint histories bench clean

help: ## show this help
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

check: ## check what a fresh machine must have, and say how to get what is missing
	@python3 scripts/check_machine.py

setup: $(STAMP) $(NODE_STAMP) ## install everything into .venv

$(STAMP): requirements.lock pyproject.toml
	@python3 scripts/check_machine.py
	@test -x $(PY) || python3 -m venv $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-uv.lock
	@$(VENV)/bin/uv pip sync --quiet --python $(PY) --require-hashes requirements.lock requirements-uv.lock
	@$(VENV)/bin/uv pip install --quiet --python $(PY) --no-deps --no-build-isolation --editable .
	@touch $@

$(NODE_STAMP): localcloud/node/package-lock.json $(STAMP)
	@$(PY) -m localcloud install
	@touch $@

$(SPARK_ARCHIVE): $(STAMP)
	@rm -f $@
	@$(PY) -m tests.spark_archive $@ >$(VENV)/spark-archive.log 2>&1 || true
	@test -s $@ || touch $@

demo: setup ## three companies, two clouds, one approved query, a real result
	@$(VENV)/bin/cleanroom demo $(DEMO_ARGS)

test: setup $(SPARK_ARCHIVE) ## the tests, on real servers
	@test ! -s $(SPARK_ARCHIVE) || export $(WITH_ARCHIVE); $(PY) -m pytest -n 3 --dist loadfile $(PYTEST_ARGS)

lint: $(STAMP) ## ruff and mypy --strict
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/mypy

histories: setup ## record the histories anew that the replay tests use (after the order of commands has changed)
	@$(VENV)/bin/cleanroom demo --keep --rows 20000 --state .cleanroom/histories
	@$(PY) -m tests.histories.record .cleanroom/histories
	@$(VENV)/bin/cleanroom down --state .cleanroom/histories

bench: setup ## speed, as ratios within one run
	@for file in benchmarks/bench_*.py; do echo "== $$file"; $(PY) $$file || exit 1; done

clean: ## remove what the other targets made
	@-test -x $(PY) && for state in .cleanroom .cleanroom/demo; do test -e $$state/services.json && $(PY) -m localcloud down --state $$state; done; true
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@rm -rf $(VENV) .cleanroom .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
