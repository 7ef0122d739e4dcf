# Every target makes the virtual environment it needs; PYTHON must be 3.11 or newer.
PYTHON ?= python3
VENV ?= .venv
WORKDIR ?= runs/quickstart
CACHE ?= $(HOME)/.cache/fade_jax
BIN := $(VENV)/bin
WORKERS ?= 2
TESTS ?= tests
TUNIX := $(VENV)-tunix
PEERS := $(VENV)-peers
VERL := $(VENV)-verl
AUDIT ?= runs/audit
DIST := $(VENV)-dist
BOUNDS := $(VENV)-bounds
SITE := $(VENV)-docs

.PHONY: help run test slow faults lint parity tunix trl verl peers audit smollm2 dist bounds docs docs-test docs-links explorer explorer-test clean
.DEFAULT_GOAL := help

help:  ## show the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(VENV)/.installed: pyproject.toml setup.cfg
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[experiments,test,lint,tracking]'
	touch $@

$(VENV)/.installed-parity: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[parity]'
	touch $@

# A virtual environment of its own: setup.cfg says why. Compiling all that tunix brings takes longer
# than the tests.
$(TUNIX)/.installed: pyproject.toml setup.cfg
	$(PYTHON) -m venv $(TUNIX)
	$(TUNIX)/bin/python -m pip install --quiet --upgrade pip
	$(TUNIX)/bin/python -m pip install --quiet --no-compile --editable '.[test,tunix]'
	touch $@

$(PEERS)/.installed: pyproject.toml setup.cfg
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --upgrade pip
	$(PEERS)/bin/python -m pip install --quiet --no-compile --editable '.[peers,test]'
	touch $@

# OpenRLHF for the audit, without what it requires: flash-attn would be compiled, for CUDA.
$(VERL)/.installed: pyproject.toml setup.cfg
	$(PYTHON) -m venv $(VERL)
	$(VERL)/bin/python -m pip install --quiet --upgrade pip
	$(VERL)/bin/python -m pip install --quiet --no-compile --editable '.[test,verl]'
	$(VERL)/bin/python -m pip install --quiet --no-compile --no-deps 'openrlhf>=0.11.2'
	touch $@

run: $(VENV)/.installed  ## warm start, then GRPO, Power(3) and FADE; ends with a report
	$(BIN)/python -m experiments.run --config=configs/quickstart.py --workdir=$(WORKDIR)

test: $(VENV)/.installed  ## the tests, without the slow ones
	$(BIN)/python -m pytest $(TESTS) -m 'not slow and not faults and not parity and not tunix and not trl and not verl' -n $(WORKERS)

slow: $(VENV)/.installed  ## kill and resume, several processes, whole notebooks, timed processes
	$(BIN)/python -m pytest $(TESTS) -m 'slow and not faults and not parity and not tunix and not trl and not verl' -n $(WORKERS)

faults: $(VENV)/.installed  ## kills and disk errors at every call that changes a file (minutes)
	$(BIN)/python -m pytest -m faults -s

lint: $(VENV)/.installed  ## ruff, import contracts, pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports setup.cfg
	$(BIN)/pyright --pythonpath $(BIN)/python

smollm2: $(VENV)/.installed  ## the real model: SmolLM2-135M-Instruct as GGUF, checked, outside the repository
	$(BIN)/python -m experiments.models.smollm2 --directory=$(CACHE)

parity: $(VENV)/.installed-parity smollm2  ## live comparison with torch and transformers
	$(BIN)/python -m pytest -m parity

tunix: $(TUNIX)/.installed  ## live runs of google-tunix with our advantages
	$(TUNIX)/bin/python -m pytest -m tunix tests/fade_jax/integrations

trl: $(PEERS)/.installed  ## live runs of TRL's GRPOTrainer, and of loops of torch, with our advantages
	$(PEERS)/bin/python -m pytest -m trl tests/fade_jax/integrations
	$(PEERS)/bin/python -m pytest tests/fade_jax/integrations/test_host.py
	$(PEERS)/bin/python tests/notebooks/execute.py notebooks/05_fade_in_another_trainer.ipynb

verl: $(VERL)/.installed  ## live steps of verl with our advantages
	$(VERL)/bin/python -m pytest -m verl tests/fade_jax/integrations
	$(VERL)/bin/python tests/notebooks/execute.py notebooks/05_fade_in_another_trainer.ipynb

audit: $(VENV)/.installed $(TUNIX)/.installed $(PEERS)/.installed $(VERL)/.installed  ## measure other frameworks' advantages
	for bin in $(TUNIX) $(PEERS) $(VERL); do $$bin/bin/python -m experiments.audit --out=$(AUDIT) || exit 1; done
	$(BIN)/python -m experiments.audit --out=$(AUDIT) --page

peers: $(TUNIX)/.installed $(PEERS)/.installed  ## install the baselines of experiments.perf.benchmark --peers

# The library alone, from the wheel; the experiments, from the sdist: each in a fresh environment, and
# run in a directory that is not the clone.
dist:  ## build wheel and sdist into dist/, check, install and run both
	rm -rf dist build $(DIST) $(DIST)-bare $(DIST)-experiments
	$(PYTHON) -m venv $(DIST)
	$(DIST)/bin/python -m pip install --quiet build pyright twine
	$(DIST)/bin/python -m build
	$(DIST)/bin/python -m twine check --strict dist/*
	$(PYTHON) -m venv $(DIST)-bare
	$(DIST)-bare/bin/python -m pip install --quiet dist/*.whl
	cd $(DIST)-bare && bin/python -c 'import fade_jax, numpy; print(fade_jax.__version__, fade_jax.rloo(numpy.arange(4.0)))'
	cd $(DIST)-bare && PATH=$$PWD/bin:$$PATH $(abspath $(DIST))/bin/pyright --verifytypes fade_jax --ignoreexternal
	cd $(DIST)-bare && ! bin/fade-run --config=configs/fade.py:smoke --workdir=smoke
	$(PYTHON) -m venv $(DIST)-experiments
	$(DIST)-experiments/bin/python -m pip install --quiet "$$(echo dist/*.tar.gz)[experiments]"
	cd $(DIST)-experiments && bin/fade-run --config=configs/fade.py:smoke --workdir=smoke
	cd $(DIST)-experiments && bin/fade-plan --config=configs/fade.py:smoke --mesh=fsdp=2

bounds:  ## the tests of fade_jax with the oldest versions that setup.cfg allows
	$(PYTHON) -m venv $(BOUNDS)
	$(BOUNDS)/bin/python -m pip install --quiet uv
	$(BOUNDS)/bin/uv pip install --quiet --python $(BOUNDS)/bin/python --resolution lowest-direct --editable '.[test]'
	$(BOUNDS)/bin/python -m pytest tests/fade_jax

$(SITE)/.installed: pyproject.toml setup.cfg
	$(PYTHON) -m venv $(SITE)
	$(SITE)/bin/python -m pip install --quiet --upgrade pip
	$(SITE)/bin/python -m pip install --quiet --editable '.[experiments,docs]'
	touch $@

SPHINX = $(SITE)/bin/sphinx-build --fail-on-warning --keep-going -c docs

# FADE_FAST=0 trains in the notebooks what their text is about.
docs: $(SITE)/.installed explorer  ## the site with the explorer, into build/docs; notebooks in their quick mode
	$(SPHINX) -b html -d build/doctrees . build/docs

docs-test: $(SITE)/.installed  ## the examples of the reference
	$(SPHINX) -b doctest -D nb_execution_mode=off . build/doctest

docs-links: $(SITE)/.installed  ## links to other sites; those within are checked by docs
	$(SPHINX) -b linkcheck -D nb_execution_mode=off . build/linkcheck

explorer:  ## the advantage explorer: one HTML page, into build/explorer
	$(PYTHON) explorer/build.py

explorer-test: $(VENV)/.installed  ## the explorer in node and in Chromium or Chrome, which have to be there
	$(BIN)/python -m pip install --quiet --editable '.[explorer]'
	node --test tests/explorer/weights.test.mjs
	$(BIN)/python -m pytest tests/explorer

clean:  ## remove the virtual environments
	rm -rf $(VENV) $(TUNIX) $(PEERS) $(VERL) $(DIST)* $(BOUNDS) $(SITE) build dist *.egg-info
