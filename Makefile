# Everything is done in .venv, which is made when it is missing; no environment has to be active.

PYTHON := $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
# pip does not apply the constraints to the environment in which it builds dlopt itself (hatchling).
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable
NEWEST := .venv/newest
ARGS :=
RULES := sgd,momentum,nesterov,adagrad,rmsprop,adam

.DEFAULT_GOAL := help
.PHONY: help train test test-long check format docs notebook bench results tensorboard upgrade clean

help:            ## what there is to make
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14
	@echo
	@echo "ARGS=... is handed on: make train ARGS='optimizer=sgd epochs=20'"

train: .venv/installed        ## install dlopt and train experiment=quickstart, or what ARGS says
	@$(BIN)/dlopt train $(or $(ARGS),experiment=quickstart)

test: .venv/installed-test    ## the tests, under ten minutes
	$(BIN)/python -m pytest -n 2 -m "not long" $(ARGS)

test-long: .venv/installed-test   ## the tests with many repetitions
	$(BIN)/python -m pytest -n 2 -m long $(ARGS)

check: .venv/installed-test   ## formatting, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/installed-test  ## put the code into form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: .venv/installed         ## the catalogue of all options, as pages in docs/catalogue
	@$(BIN)/dlopt list --pages docs/catalogue

notebook: .venv/installed-test    ## execute docs/notebook.ipynb, and store its outputs
	$(BIN)/python tests/notebook.py

bench: .venv/installed-bench  ## measure dlopt beside other loops
	$(BIN)/python -m benchmarks $(ARGS)

results: .venv/installed      ## the table and the picture of the README, from 144 runs
	rm -rf outputs/results
	$(BIN)/dlopt train -m data=mnist1d arch=linear,mlp,cnn optimizer=$(RULES) seed=0,1,2,3,4 hydra.sweep.dir=outputs/results/mnist1d
	$(BIN)/dlopt train -m data=fashion_mnist arch=linear,mlp,cnn optimizer=$(RULES) seed=0,1,2 epochs=5 threads=1 hydra.sweep.dir=outputs/results/fashion_mnist
	$(BIN)/dlopt runs outputs/results --over seed --across optimizer --columns data,arch,test/accuracy --markdown
	$(BIN)/dlopt runs outputs/results/mnist1d --where arch=cnn --over seed --png docs/results.png

tensorboard: .venv/installed  ## the curves of all runs, in a browser
	$(BIN)/dlopt tensorboard $(ARGS)

upgrade: | .venv/bin/python   ## renew constraints.txt within the ranges of pyproject.toml, and run the tests
	rm -rf $(NEWEST)
	$(BIN)/python -m venv $(NEWEST)
	$(NEWEST)/bin/python -m pip install --quiet --disable-pip-version-check '.[test,bench]'
	$(NEWEST)/bin/python -m pip freeze --all --exclude pip --exclude dlopt > $(NEWEST)/all.txt
	sed -n '/^#/p' constraints.txt > $(NEWEST)/constraints.txt
	sed -n 's/^\([A-Za-z0-9._-]*==[^+]*\).*/\1/p' $(NEWEST)/all.txt | LC_ALL=C sort -f >> $(NEWEST)/constraints.txt
	cp $(NEWEST)/constraints.txt constraints.txt
	rm -rf $(NEWEST)
	$(MAKE) test

clean:           ## remove the environment and caches; outputs stay
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "dlopt needs Python 3.11, 3.12 or 3.13, with its venv module"; exit 2; }
	@$(PYTHON) -m venv .venv || { echo "python's venv module is not whole; on Debian: apt-get install python3-venv"; rm -rf .venv; exit 2; }

.venv/installed: pyproject.toml constraints.txt | .venv/bin/python
	@echo "installing dlopt into .venv: a minute or two, most of it for torch ..."
	@$(INSTALL) .
	@touch $@

.venv/installed-test: pyproject.toml constraints.txt | .venv/bin/python
	@echo "installing dlopt and what its tests need into .venv ..."
	@$(INSTALL) '.[test]'
	@touch .venv/installed $@

.venv/installed-bench: pyproject.toml constraints.txt | .venv/bin/python
	@echo "installing dlopt and what its benchmarks need into .venv ..."
	@$(INSTALL) '.[bench]'
	@touch .venv/installed $@
