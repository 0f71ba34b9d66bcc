# `make` lists the targets. Needs python3.11 with venv, git and make; `make conformance` needs npm as well,
# and so do the tests of the TypeScript clients, which are skipped without it.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TESTS ?= tests
OFFICIAL := .cache/official
SPY := .cache/bench-profile/.ready
PYTHON_1 := $(OFFICIAL)/python-1/.ready
FUZZER := .cache/fuzz/.ready
TYPESCRIPT := $(OFFICIAL)/typescript/.ready
COMPILE := uv pip compile --universal --generate-hashes --python-version 3.11 --no-header --quiet
LOCK := $(COMPILE) pyproject.toml

.PHONY: help setup demo official test check format conformance bench bench-scale profile chaos fuzz fuzz-coverage hostile audit docs lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

setup: $(READY) ## make .venv with everything, at the versions of constraints.txt

demo: $(READY) ## run a real job on real input: audits Python's standard library as a durable task
	@$(BIN)/taskengine demo

official: $(PYTHON_1) $(TYPESCRIPT) ## make the official clients' environments, which `make test` needs

test: $(READY) official ## run the tests (TESTS=tests/store for some of them)
	$(BIN)/pytest -n 4 $(TESTS)

check: $(READY) ## lint, formatting and strict types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY) ## format the code
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

conformance: $(READY) ## run the official conformance suite against conformance/tools.py
	PATH="$(CURDIR)/$(BIN):$$PATH" conformance/run

# On the services that TASKENGINE_TEST_DATABASE_URL and TASKENGINE_TEST_BROKER_URL name, else on embedded ones.
bench: $(READY) ## measure beside FastMCP's tasks extension; writes docs/performance.md
	$(BIN)/python -m benchmarks.compare --write docs/performance.md

bench-scale: $(READY) ## measure a million rows, open streams, idle costs; writes docs/performance.md (15 minutes)
	$(BIN)/python -m benchmarks.scale --write docs/performance.md

profile: $(READY) $(SPY) ## where the time goes: processes, statements, plans, a task's steps (PROFILE="--write docs/performance.md")
	$(BIN)/python -m benchmarks.profile $(PROFILE)

chaos: $(READY) ## break everything under load, audit every call; writes docs/operations.md (an hour; CHAOS="--fault list" for the faults)
	$(BIN)/python -m tests.chaos $(or $(CHAOS),--write docs/operations.md)
ifeq ($(CHAOS),)
	$(BIN)/python -m tests.chaos.hosts
	$(BIN)/python -m tests.chaos.crowd
endif

fuzz: $(READY) ## send 200,000 requests that are almost right (FUZZ="--inputs 1000000 --seed 7" for others)
	$(BIN)/python -m tests.fuzz $(or $(FUZZ),--inputs 200000)

fuzz-coverage: $(FUZZER) ## fuzz what reads a client's bytes by coverage, a minute each (FUZZ="--seconds 600" for longer)
	$(dir $(FUZZER))bin/python -m tests.fuzz.coverage $(FUZZ)

hostile: $(READY) ## attack a front end in eleven ways and measure what others notice (HOSTILE="--help" for more)
	$(BIN)/python -m tests.hostile $(HOSTILE)

audit: ## look the locked versions up among known vulnerabilities; says so where that cannot be done
	@$(PYTHON) -m tests.hostile.audit

docs: $(READY) ## make docs/settings.md again
	$(BIN)/taskengine settings --markdown > docs/settings.md

lock: ## make constraints.txt and workers/requirements.txt again from pyproject.toml, the clients' and the peer's (needs uv, npm)
	{ sed '/^#/!Q' constraints.txt; $(LOCK) --all-extras --group build --group test --group check; } > lock.new
	mv lock.new constraints.txt
	{ sed '/^#/!Q' workers/requirements.txt; $(LOCK) --constraint constraints.txt --no-annotate; } > lock.new
	mv lock.new workers/requirements.txt
	{ sed '/^#/!Q' tests/official/requirements-1.30.txt; echo 'mcp==1.30.0' | $(COMPILE) --no-annotate -; } > lock.new
	mv lock.new tests/official/requirements-1.30.txt
	{ sed '/^#/!Q' tests/fuzz/requirements.txt; echo 'atheris==3.0.0' | $(COMPILE) --no-annotate -; } > lock.new
	mv lock.new tests/fuzz/requirements.txt
	for name in peer profile; do \
		{ sed '/^#/!Q' benchmarks/$$name-requirements.txt; $(COMPILE) --no-annotate benchmarks/$$name-requirements.in; } > lock.new \
		&& mv lock.new benchmarks/$$name-requirements.txt || exit 1; \
	done
	cd tests/official && npm install --package-lock-only --omit-lockfile-registry-resolved --no-audit --no-fund --loglevel=error

clean: ## remove what the other targets made
	rm -rf $(VENV) .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis dist build

# Hashes are checked for every package; the build backend is one of them, so nothing else is fetched.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# The official Python client of 2025-11-25 cannot share an environment with ours. Compiled at once: pip may leave that out,
# and then every start of the client takes seconds.
$(PYTHON_1): tests/official/requirements-1.30.txt
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	env -u PYTHONDONTWRITEBYTECODE $(@D)/bin/python -m compileall -q $(@D)/lib || true
	@touch $@

# Beside what the project's own environment has, which stays without it: there are no wheels for every platform.
$(FUZZER): tests/fuzz/requirements.txt $(READY)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> "$$($(@D)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/project.pth"
	@touch $@

$(SPY): benchmarks/profile-requirements.txt
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

$(TYPESCRIPT): tests/official/package.json tests/official/package-lock.json
	@if ! command -v npm >/dev/null; then echo "npm is not there: the tests of the TypeScript clients are skipped"; else \
		mkdir -p $(@D) && cp $^ $(@D)/ && npm ci --prefix $(@D) --ignore-scripts --no-audit --no-fund --loglevel=error \
		&& touch $@; fi
