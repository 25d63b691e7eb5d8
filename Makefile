# Each target makes .venv if it is missing, installs into it once, and does its job.
#   make quickstart   the whole method in miniature on this machine's CPU
#   make demo         a page to talk to the quickstart's models: one that looks, and one that guesses
#   make test         the test suite; more options with ARGS="-k curiosity"
#   make lint         ruff
#   make docs         the documents as a site, in site/
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# setuptools warns of editable installs whose folders are mapped, as configs/ is; nothing is wrong.
# Modules are compiled when they are imported, which most never are.
INSTALL := PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --no-compile --editable

# glibc hands large blocks that are freed back to the system, which zeroes them page by page for the next step: on a CPU
# a sixth of an update's time. With these the process keeps them.
KEEP_MEMORY := MALLOC_ARENA_MAX=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1000000000000

.PHONY: quickstart demo test lint docs clean

quickstart: $(VENV)/installed
	$(KEEP_MEMORY) $(BIN)/pixel-reasoner quickstart $(ARGS)

QUICKSTART := runs/quickstart

# Trains the models if there are none.
demo: $(VENV)/installed-serve
	test -e $(QUICKSTART)/rl_with_curiosity/model/pixel_reasoner.json || \
		$(KEEP_MEMORY) $(BIN)/pixel-reasoner quickstart
	$(BIN)/pixel-reasoner serve --model looks=$(QUICKSTART)/rl_with_curiosity/model \
		--model guesses=$(QUICKSTART)/rl_without_curiosity/model --max-length 1024 $(ARGS)

test: $(VENV)/installed-test
	$(BIN)/python -m pytest --numprocesses=2 --dist=worksteal $(ARGS)

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Its pages open as files; the search needs a server: python -m http.server --directory site
docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict $(ARGS)

clean:
	rm -rf $(VENV)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The files under $(VENV) record that an installation of the present setup.py succeeded.
$(VENV)/installed: setup.py | $(BIN)/python
	$(INSTALL) .
	@touch $@

$(VENV)/installed-serve: setup.py | $(BIN)/python
	$(INSTALL) ".[serve]"
	@touch $@ $(VENV)/installed

$(VENV)/installed-docs: setup.py | $(BIN)/python
	$(INSTALL) ".[docs]"
	@touch $@ $(VENV)/installed

$(VENV)/installed-test: setup.py | $(BIN)/python
	$(INSTALL) ".[test]"
	@touch $@ $(VENV)/installed $(VENV)/installed-serve
