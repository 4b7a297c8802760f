# Two commands do everything on a fresh machine: make demo, make test. On Windows, see README.md.

PYTHON ?= python3
# A1111's own packages where this Python can run them, else the newest.
STACK  ?= $(shell $(PYTHON) -c 'import sys; print("a1111" if sys.version_info < (3, 12) else "latest")')
VENV   := .venv/$(STACK)
READY  := $(VENV)/.ready
RUN    := $(VENV)/bin/python

.PHONY: demo test bench lint docs checkpoint clean

demo: $(READY)
	$(RUN) -m lib_lora_train demo

test: $(READY)
	$(RUN) -m pytest -n 2

bench: $(READY)
	$(RUN) -m benchmarks.bench_training $(ARGS)

lint: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m mypy

docs: $(READY)
	$(RUN) -m lib_lora_train.cli.reference > docs/settings.md

# Trains the embedded checkpoint again from its seed; about two hours on one core.
checkpoint: $(READY)
	$(RUN) -m lib_lora_train.embedded.make_checkpoint --seed 0 --out build/shapes-v1.safetensors

$(READY): requirements/$(STACK).txt requirements/dev.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --requirement requirements/$(STACK).txt --requirement requirements/dev.txt
	touch $(READY)

clean:
	rm -rf .venv demo-output build
