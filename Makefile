# make demo   run the main job on this machine          make test   run the tests
# Both first install what they need into .venv. Nothing outside of this folder changes.
SHELL := /bin/bash
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
NODE_STAMP := $(VENV)/.node-installed
DOCS_VENV := $(VENV)/docs
DOCS_STAMP := $(DOCS_VENV)/.installed
export CLEANROOM_NODE_DIR := $(CURDIR)/$(VENV)/node
# Container images often set it. Each of dozens of processes would then compile about 1,500 modules again, in three seconds.
unexport PYTHONDONTWRITEBYTECODE
# Code for Spark's JVMs, and their class data archive, among PySpark's files (sparkapp/jvm_build.py, sparkapp/jvm_archive.py).
JVM_STAMP := $(VENV)/.jvm-built
ARCHIVE_STAMP := $(VENV)/.jvm-archived
TESTS_STAMP := $(VENV)/.tests-compiled
PYTEST_ARGS ?=
DEMO_ARGS ?=
MUTANTS ?=
FAULTS ?=
BENCH ?=

.DEFAULT_GOAL := help
.PHONY: help setup check demo classes test test-lag test-life test-faults test-recovery test-install test-companies test-guides test-kills mutants lint reference docs histories bench clean test-load test-executors \
	cluster-binaries cluster-up cluster-down test-cluster test-demo-cluster

help: ## show this help
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

check: ## check that the machine has what it needs, and print how to install what is missing
	@python3 scripts/check_machine.py

setup: $(STAMP) $(NODE_STAMP) $(JVM_STAMP) $(ARCHIVE_STAMP) ## install everything into .venv

$(STAMP): requirements.lock pyproject.toml
	@python3 scripts/check_machine.py
	@echo "setup 1 of 4: the locked Python packages, about 1.6 GB in $(VENV)"
	@test -x $(PY) || python3 -m venv $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-uv.lock
	@$(VENV)/bin/uv pip sync --python $(PY) --require-hashes requirements.lock requirements-uv.lock
	@$(VENV)/bin/uv pip install --quiet --python $(PY) --no-deps --no-build-isolation --editable .
	@touch $@

$(NODE_STAMP): localcloud/node/package-lock.json $(STAMP)
	@echo "setup 2 of 4: Azurite, a Node program, for the local cloud"
	@$(PY) -m localcloud install
	@touch $@

$(JVM_STAMP): sparkapp/jvm/SealedFiles.java sparkapp/jvm_build.py $(STAMP)
	@echo "setup 3 of 4: the Java class of the pods"
	@$(PY) -m sparkapp.jvm_build >$(VENV)/jvm.log 2>&1 || { cat $(VENV)/jvm.log; exit 1; }
	@touch $@

# Spark starts two seconds faster with the archive, which takes about 40 seconds to write. The first demo does not wait for it.
$(ARCHIVE_STAMP): sparkapp/jvm/classes.txt.gz sparkapp/jvm_archive.py $(JVM_STAMP)
	@echo "setup 4 of 4: the class data archive of Spark, about 40 seconds"
	@$(PY) -m sparkapp.jvm_archive >$(VENV)/archive.log 2>&1 || echo "note: this Java wrote no class archive; see $(VENV)/archive.log" >&2
	@touch $@

classes: setup ## record the classes of the class data archive again, after an update of Spark
	@$(PY) -m sparkapp.jvm_archive --record

demo: $(STAMP) $(NODE_STAMP) $(JVM_STAMP) ## run three companies, two clouds, one approved query, up to a real result
	@$(VENV)/bin/cleanroom demo $(DEMO_ARGS)

# By one process, while another writes the class data archive. The processes of pytest-xdist would compile all of it four times.
$(TESTS_STAMP): $(STAMP)
	@$(PY) -m pytest --collect-only -q -p no:cacheprovider >$(VENV)/tests.log 2>&1 || true
	@touch $@

test: ## run the tests, on real servers
	@$(MAKE) --no-print-directory -j 2 setup $(TESTS_STAMP)
	@$(PY) -m pytest -n 5 --dist loadfile $(PYTEST_ARGS)

mutants: setup ## put small faults into the code, and list those that no test notices (MUTANTS="cleanroom/keys --sample 200")
	@$(PY) -m scripts.mutants $(MUTANTS)

LAG_TESTS := tests/scenario/test_query_lifecycle.py tests/scenario/test_crashes.py tests/scenario/test_refused_requests.py \
	tests/scenario/test_demo_result.py
test-lag: setup ## run the scenarios with governance nodes that lag behind: at random, by 400 ms and by 1,000 ms
	@COMMIT_MS=200 CLEANROOM_TEST_LAG=1 $(PY) -m pytest -q tests/scenario/test_governance_machine.py $(PYTEST_ARGS)
	@for lag in 400 1000; do \
		LAG_MS=$$lag COMMIT_MS=1000 $(PY) -m pytest -q $(LAG_TESTS) $(PYTEST_ARGS) || exit 1; \
	done

test-kills: setup ## kill each command at every request to Temporal and governance, and repeat it
	@CLEANROOM_TEST_KILLS=all $(PY) -m pytest -q tests/scenario/test_repeated_commands.py tests/unit/test_killed_set_up.py $(PYTEST_ARGS)

test-life: setup ## run the state machines over the lives of queries, runs and datasets with 300 examples each
	@CLEANROOM_TEST_LIFE=300 $(PY) -m pytest -q tests/unit/test_query_life.py tests/unit/test_run_and_dataset_life.py $(PYTEST_ARGS)

test-faults: setup ## run the whole fault matrix, and write docs/durability.md (FAULTS="--scenario run --fault lost")
	@$(PY) -m tests.faults $(FAULTS)

test-recovery: setup ## delete the database of a local cloud's Temporal server, and recover as docs/guides/backups.md says
	@CLEANROOM_TEST_RECOVERY=1 $(PY) -m pytest -q tests/scenario/test_recovery.py tests/scenario/test_lost_temporal_server.py tests/scenario/test_junk_starts.py $(PYTEST_ARGS)

test-companies: setup ## play three companies from nothing to a result, with the commands of docs/getting-started.md
	@CLEANROOM_TEST_COMPANIES=1 $(PY) -m pytest -q -s tests/scenario/test_three_companies.py $(PYTEST_ARGS)

test-executors: setup ## run 1, 2 and 4 executors in attested pods, count what they read, and kill one that has spilled
	@CLEANROOM_TEST_EXECUTORS=1 $(PY) -m pytest -q -s tests/scenario/test_executors.py tests/scenario/test_executor_loss.py $(PYTEST_ARGS)

test-guides: setup ## execute the commands of the guides, one after the other, on a local cloud
	@CLEANROOM_TEST_GUIDES=1 $(PY) -m pytest -q -s tests/scenario/test_guides.py $(PYTEST_ARGS)

test-install: setup ## install a wheel into new environments: the small one, and the one that plays the demo
	@CLEANROOM_TEST_INSTALL=1 $(PY) -m pytest -q tests/scenario/test_installed_wheel.py $(PYTEST_ARGS)

TIER ?= fast
cluster-binaries: $(STAMP) ## build the programs of the test cluster into ~/.cache/cleanroom, or print why that is not possible
	@$(PY) -m tools.cluster build --tier $(TIER) $(if $(filter full,$(TIER)),--spark)

cluster-up: cluster-binaries ## start a real Kubernetes cluster with the Spark Operator, and print its kubeconfig (TIER=full: with containers)
	@$(PY) -m tools.cluster up --tier $(TIER) $(if $(filter full,$(TIER)),--spark)

cluster-down: $(STAMP) ## stop the cluster of cluster-up, and remove everything that it left
	@$(PY) -m tools.cluster down

# The cluster of KUBECONFIG, if that is set. Exit code 3 says that this machine cannot build the programs; pytest then reports skips.
TIERS ?= $(if $(KUBECONFIG),existing,fast full)
CLUSTER_MINUTES ?= 60
test-cluster: setup ## run the Kubernetes tests on a real cluster, of KUBECONFIG or started here (TIERS="stand-in fast full")
	@$(if $(KUBECONFIG),true,$(PY) -m tools.cluster build $(if $(filter full,$(TIERS)),--tier full --spark) --minutes $(CLUSTER_MINUTES)) || test $$? = 3
	@CLEANROOM_TEST_TIERS="$(TIERS)" $(PY) -m pytest -q --durations=5 tests/cluster $(PYTEST_ARGS)

test-demo-cluster: setup ## play the demo in pods of a real cluster, compare its result, and look for what it leaves; needs root
	@CLEANROOM_TEST_DEMO_CLUSTER=1 $(PY) -m pytest -q -rP --durations=3 tests/scenario/test_demo_on_cluster.py $(PYTEST_ARGS)

lint: $(STAMP) ## run ruff, mypy --strict, the import contracts, and the check of generated pages
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports --no-logo
	@$(PY) -m scripts.reference --check

reference: $(STAMP) ## generate docs/reference and docs/schemas from the code
	@$(PY) -m scripts.reference

$(DOCS_STAMP): requirements-docs.lock $(STAMP)
	@$(VENV)/bin/uv venv --quiet --clear --python $(PY) $(DOCS_VENV)
	@$(VENV)/bin/uv pip install --quiet --python $(DOCS_VENV)/bin/python --require-hashes -r requirements-docs.lock
	@touch $@

docs: $(DOCS_STAMP) ## build the documentation site in .site, strictly
	@NO_MKDOCS_2_WARNING=1 PYTHONPATH=$(CURDIR) $(DOCS_VENV)/bin/mkdocs build --quiet --strict

histories: setup ## record the histories of the replay tests again, after the order of commands has changed
	@$(VENV)/bin/cleanroom demo --keep --rows 20000 --state .cleanroom/histories
	@$(PY) -m tests.histories.record .cleanroom/histories
	@$(PY) -m tests.histories.outcomes
	@$(PY) -m tests.histories.fingerprints
	@$(PY) -m tests.histories.release
	@$(VENV)/bin/cleanroom down --state .cleanroom/histories

test-load: setup ## put load on queries and runs: 1,000 queries, 3,450 decisions, 10,000 junk signals, 50 runs at once
	@RUST_LOG=error $(PY) -m benchmarks load junk runs

bench: setup ## measure speed, as ratios within one run, and write docs/performance.md (BENCH="floors codec")
	@RUST_LOG=error $(PY) -m benchmarks $(BENCH)

clean: ## remove what the other targets create
	@-test -x $(PY) && for state in .cleanroom .cleanroom/demo; do test -e $$state/services.json && $(PY) -m localcloud down --state $$state; done; true
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@rm -rf $(VENV) .cleanroom .site .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
