# kdbench. `make help` lists the targets.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

SEEDS ?=
METHODS ?=
SCALE ?=
DATA ?=
SET ?=
OPTIONS := $(if $(SEEDS),--seeds $(SEEDS)) $(if $(METHODS),--methods "$(METHODS)") $(if $(SCALE),--scale $(SCALE)) \
	$(if $(DATA),--data "$(DATA)") $(foreach pair,$(SET),--set $(pair))

.DEFAULT_GOAL := help
.PHONY: help setup test lint reproduce-coco reproduce-cifar100 reproduce-imagenet table plots check clean

help: ## this list
	@echo "make TARGET [SEEDS=3] [METHODS=dist,mimic] [SCALE=full|mini] [DATA=PATH] [SET='epochs=1 batch_size=4']"
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1|/' | awk -F'|' '{printf "  %-19s %s\n", $$1, $$2}'

setup: $(READY) ## make the virtual environment in .venv

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "kdbench needs Python 3.11 or newer; name one with make PYTHON=python3.12"; exit 1; }
	@# pip takes a package that was being installed when it was stopped for a whole one, so such a .venv is made anew.
	test -x $(BIN)/python -a ! -e .venv/.unfinished || $(PYTHON) -m venv --clear .venv
	touch .venv/.unfinished
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	mv .venv/.unfinished $(READY)

# Runs the tables of a data set, then prints them; what could not be run at all is said and prints nothing.
reproduce = @$(BIN)/kdbench run $(1) $(OPTIONS); status=$$?; \
	test $$status -ge 2 || $(BIN)/kdbench table $(1) $(if $(SCALE),--scale $(SCALE)); exit $$status

reproduce-coco: $(READY) ## train and evaluate every cell of the COCO tables, then print them
	$(call reproduce,akd/coco dist/coco)

reproduce-cifar100: $(READY) ## the same for CIFAR-100: six papers
	$(call reproduce,$(addsuffix /cifar100,crd dkd dist granularity ad ekd))

reproduce-imagenet: $(READY) ## the same for ImageNet
	$(call reproduce,$(addsuffix /imagenet,dist dkd torchdistill))

table: $(READY) ## every reported number beside the measured one, with a verdict
	$(BIN)/kdbench table $(if $(SCALE),--scale $(SCALE))

plots: $(READY) ## measured against reported, gains, learning curves (PNG and SVG)
	$(BIN)/kdbench plots $(if $(SCALE),--scale $(SCALE))

check: $(READY) ## validate tables, recipes, reported numbers, data and results without training
	$(BIN)/kdbench check $(if $(DATA),--data "$(DATA)")

test: $(READY) ## the tests
	$(BIN)/python -m pytest

lint: $(READY) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean: ## remove what runs left behind, teachers included
	rm -rf results/runs results/tables results/plots
