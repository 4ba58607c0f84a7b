# make quickstart   install the project and run the whole job in miniature
# make test         install what tests need; format, lint, types, tests
# make test-all     the same, with the slower variants of the tests, those against other libraries,
#                   which it installs (transformers, a torch, lm-evaluation-harness), and those on a
#                   real Ray cluster and a real Slurm, which the tests start (test-deep: only those)
# make clean        remove what the above made

PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: quickstart test test-all test-deep slurm checks clean

quickstart: .venv/installed
	$(BIN)/dpscale quickstart

test: checks
	$(BIN)/pytest -n 2

test-all: checks slurm .venv/installed-all
	$(BIN)/pytest -n 2 -m ""

test-deep: slurm .venv/installed-all
	$(BIN)/pytest -n 2 -m "deep or parity or cluster"

slurm:
	@PATH=$$PATH:/usr/sbin command -v slurmctld >/dev/null || { echo \
		"make: no Slurm here; run: apt-get install slurmctld slurmd slurm-client munge" >&2; exit 1; }

checks: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

.venv/installed: constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(not (3, 11) <= v < (3, 14))' 2>/dev/null \
		|| { echo "make: $(PYTHON) is not Python 3.11 to 3.13; run: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(INSTALL) -e .
	touch $@

.venv/installed-dev: .venv/installed
	$(INSTALL) -e '.[dev]'
	touch $@

.venv/installed-all: .venv/installed-dev
	$(INSTALL) -e '.[dev,eval,hf,ray,slurm]'
	touch $@

clean:
	rm -rf .venv build quickstart *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find dpscale tests -name __pycache__ -prune -exec rm -rf {} +
