# `make demo` and `make test` need Python >= 3.10 with pip, and nothing else: what they install goes into .venv.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# Where there is an NVIDIA GPU, torch is pip's choice, a CUDA build. Elsewhere on Linux the constraint lets pip prefer a
# CPU build if it can find one. Other systems have one build.
ifeq ($(shell uname -s)$(shell command -v nvidia-smi 2>/dev/null),Linux)
TORCH := torch --constraint constraints-dev.txt
else
TORCH := torch
endif

DEMO := "a red circle on a white background" "two blue squares" "a green triangle above a yellow ring" \
	"three purple crosses on a black background" "an orange diamond and a blue circle" "a ring left of a square"

.PHONY: demo test comfy thumbnails screenshots
demo: .venv/installed
	$(BIN)/ssd-janus compare $(DEMO) --methods full,window,ssd,reach --budget 0.2 --guidance 2

# Tests run in a process a core, with one thread each: more would wait for one another. Processes must find the tests in the
# same order, hence the hash seed.
# The tests of web/ take the page of ComfyUI from a package and a Chromium from the system; without one they are skipped.
test: .venv/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	PYTHON=$(CURDIR)/$(BIN)/python .ci/types-of-nodes
	OMP_NUM_THREADS=1 PYTHONHASHSEED=0 $(BIN)/python -m pytest -q --numprocesses auto --dist loadfile

# ComfyUI with this pack: the one at COMFYUI_PATH, or one that comfy-cli installs into .comfyui
comfy:
	@PYTHON=$(PYTHON) tools/comfy $(ARGS)

# the pictures of the shared workflows, drawn anew by running them on COMFYUI_PATH
thumbnails: .venv/installed-dev
	$(BIN)/python -m tests.comfyui.thumbnails

# the README's pictures of the page, taken anew after a run on COMFYUI_PATH
screenshots: .venv/installed-dev
	$(BIN)/python -m tests.comfyui.screenshots

.venv/installed: pyproject.toml constraints-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is needed; name one with: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
		{ echo "Python's venv is not installed; on Debian and Ubuntu: sudo apt install python3-venv" >&2; exit 1; }
	rm -rf .venv
	$(PYTHON) -m venv .venv
	$(PIP) $(TORCH)
	$(PIP) --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(PIP) --editable '.[dev]'
	touch $@
