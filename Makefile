# On a fresh machine: make demo, make ui, make test. On Windows, see README.md.

PYTHON ?= python3
# A1111's own packages if this Python can run them, else the newest.
STACK  ?= $(shell $(PYTHON) -c 'import sys; print("a1111" if sys.version_info < (3, 12) else "latest")')
VENV   := .venv/$(STACK)
READY  := $(VENV)/.ready
RUN    := $(VENV)/bin/python
# Modules are compiled when they are first imported, which halves the time of an installation.
PIP    := $(RUN) -m pip install --quiet --no-compile

.PHONY: demo ui test bench lint docs checkpoint variants clean

demo: $(READY)
	$(RUN) -m lib_lora_train demo

# The tab as a page of its own, at http://127.0.0.1:7860. Not on the newest packages, whose Gradio it does not support.
ui: $(VENV)/.ready-ui
	$(RUN) -m lib_lora_train ui $(ARGS)

# make test TESTS=tests/model runs a part.
test: $(READY)
	$(RUN) -m pytest -n 2 --dist loadgroup $(TESTS)

bench: $(READY)
	$(RUN) -m benchmarks.bench_training $(ARGS)

lint: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

docs: $(READY)
	$(RUN) -m lib_lora_train.cli.reference > docs/settings.md

# Trains the embedded checkpoint again from its seed; about two hours on one core.
checkpoint: $(READY)
	$(RUN) -m tools.checkpoints.make_checkpoint --seed 0 --out build/shapes-v1.safetensors

# Trains the two variants that the tests use from the committed checkpoint; about half an hour each on one core.
variants: $(READY)
	$(RUN) -m tools.checkpoints.make_checkpoint --variant v --seed 0 --out build/shapes-v-v1.safetensors
	$(RUN) -m tools.checkpoints.make_checkpoint --variant xl --seed 0 --out build/xl-v1.safetensors

$(READY): requirements/$(STACK).txt requirements/dev.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --requirement requirements/$(STACK).txt --requirement requirements/dev.txt
	touch $(READY)

$(VENV)/.ready-ui: $(READY) requirements/ui.txt
	$(RUN) -c 'import gradio' 2>/dev/null || $(PIP) --requirement requirements/$(STACK).txt --requirement requirements/ui.txt
	touch $(VENV)/.ready-ui

clean:
	rm -rf .venv demo-output lora-train-ui build
