# `make demo` to see it, `make test` to check it. Each sets itself up first and needs only Python 3.11 to 3.13.
# Without make (Windows): the README gives the same lines for pip.

TORCH := torch==2.13.0
VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed

# The first Python of a version that we test with. `make PYTHON=/path/to/python` to choose another.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	$$p -c 'import sys, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null \
	&& echo $$p && break; done)

.PHONY: help install test test-browser test-godot test-unity test-replay test-show stress-unity demo lint clean

help:
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' $(MAKEFILE_LIST) | expand -t 22

install: $(STAMP) ## .venv with everything, once

# torch goes first and by itself: so pip takes a CPU build that lies on the machine before a CUDA one from afar.
$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || test -n "$(PYTHON)" || \
		{ echo "Everscene needs Python 3.11, 3.12 or 3.13 with venv; none was found. Try make PYTHON=/path/to/python" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo 'Installing into $(VENV): a few minutes the first time'
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

test: $(STAMP) ## every quick test, two at a time; those that need a browser skip where there is none
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

test-browser: $(STAMP) ## the viewer in a real headless Chromium
	$(BIN)/python -m pytest tests/browser

test-godot: $(STAMP) ## the Godot addon in a real Godot 4, on a real or virtual screen: GODOT=/path/to/godot
	@command -v "$(or $(GODOT),godot4)" >/dev/null || command -v godot >/dev/null || { echo "No Godot 4 here. Get 4.3 or newer \
	from https://godotengine.org/download and run: make test-godot GODOT=/path/to/godot" >&2; exit 1; }
	GODOT="$(GODOT)" $(BIN)/python -m pytest tests/clients/godot

test-unity: $(STAMP) ## the Unity package under Mono and CoreCLR; installs both
	tests/clients/unity/get_runtimes.sh
	$(BIN)/python -m pytest tests/clients/unity

test-replay: $(STAMP) ## three minutes of the pocket model with 40 events, done again bit for bit: a quarter of an hour
	$(BIN)/python -m pytest tests/bridge/test_long_replay.py -s

test-show: $(STAMP) ## ten minutes of a show with nobody there, and every frame in its recording; SECONDS=60 for less
	SHOW_SECONDS="$(or $(SECONDS),600)" $(BIN)/python -m pytest tests/examples/test_long_show.py -s

stress-unity: $(STAMP) ## ten minutes in which the C# ring reader may not show one torn frame
	tests/clients/unity/get_runtimes.sh
	UNITY_TORN_SECONDS=600 $(BIN)/python -m pytest tests/clients/unity/test_unity_speed.py -k "torn and mono and yes" -s

demo: $(STAMP) ## a living world in your browser
	$(BIN)/everscene demo

lint: $(STAMP) ## ruff, mypy --strict, and the rule that imports go one way
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean: ## removes .venv and every cache
	rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
