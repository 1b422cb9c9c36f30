# make demo             the demo, on an embedded server: nothing else to install or start
# make test             everything that has to pass: lint, format, types, tests
# make test-all         the same, with what the tests of `make test` leave out (they say at their end)
# make test-skipped     the tests that the last run skipped: none may be skipped again
# make test-partitions  the tests, in namespaces of four partitions
# make test-cluster     the tests on a Redis Cluster of three nodes, which they start
# make docs             the documentation as a site, in site/
# make clean            forget the virtual environment and all caches

PYTHON ?= python3
VENV := .venv
DEMO_ARGS ?=
TEST_ARGS ?=
ALL := --servers=all --hypothesis-profile=thorough

# The tests start hundreds of Python processes, which must not compile their modules each time.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test check test-all test-skipped test-partitions test-cluster lint types tests format docs clean

demo: $(VENV)/.installed-embedded,server
	$(VENV)/bin/polos demo $(DEMO_ARGS)

test check: lint types tests

test-all: TESTS = $(ALL)
test-all: lint types tests

test-skipped: TESTS = $(ALL) --only-skipped
test-skipped: tests

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

format: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# Links and anchors are checked. The theme's own advertisement is not a warning of ours.
docs: export NO_MKDOCS_2_WARNING = 1
docs: $(VENV)/.installed-docs
	$(VENV)/bin/mkdocs build --strict

clean:
	rm -rf $(VENV) build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# One stamp for each set of extras; newer dependencies are installed when pyproject.toml has changed.
$(VENV)/.installed-%: pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[$*]'
	touch $@
