# kdbench. `make help` lists the targets.
PYTHON ?= python3
VENV ?= .venv
READY := $(VENV)/.ready
# Tools are run as modules: scripts name the interpreter by a path, which no longer holds where a folder has moved.
RUN := $(VENV)/bin/python -m

SEEDS ?=
METHODS ?=
SCALE ?=
DATA ?=
SET ?=
BASE ?= results/baselines
HEAD ?= results/runs
SELECT ?=
QUICK ?=
UPDATE ?=
OPTIONS := $(if $(SEEDS),--seeds $(SEEDS)) $(if $(METHODS),--methods "$(METHODS)") $(if $(SCALE),--scale $(SCALE)) \
	$(if $(DATA),--data "$(DATA)") $(foreach pair,$(SET),--set $(pair))

.DEFAULT_GOAL := help
.PHONY: help setup test lint reproduce-coco reproduce-cifar100 reproduce-imagenet reproduce-cityscapes reproduce-camvid table plots compare guard bench check clean

help: ## this list
	@echo "make TARGET [SEEDS=3] [METHODS=dist,mimic] [SCALE=full|mini] [DATA=PATH] [SET='epochs=1 batch_size=4']"
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1|/' | awk -F'|' '{printf "  %-21s %s\n", $$1, $$2}'

setup: $(READY) ## make the virtual environment (VENV=.venv)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "kdbench needs Python 3.11 or newer; name one with make PYTHON=python3.12"; exit 1; }
	@# pip takes a package that was being installed when it was stopped for a whole one, so such an environment is made anew.
	test -x $(VENV)/bin/python -a ! -e $(VENV)/.unfinished || $(PYTHON) -m venv --clear $(VENV)
	touch $(VENV)/.unfinished
	$(RUN) pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	mv $(VENV)/.unfinished $(READY)

# Runs the tables of a data set, then prints them; what could not be run at all is said and prints nothing.
reproduce = @$(RUN) kdbench run $(1) $(OPTIONS); status=$$?; \
	test $$status -ge 2 || $(RUN) kdbench table $(1) $(if $(SCALE),--scale $(SCALE)); exit $$status

reproduce-coco: $(READY) ## train and evaluate every cell of the COCO tables, then print them
	$(call reproduce,akd/coco dist/coco)

reproduce-cifar100: $(READY) ## the same for CIFAR-100: six papers
	$(call reproduce,$(addsuffix /cifar100,crd dkd dist granularity ad ekd))

reproduce-imagenet: $(READY) ## the same for ImageNet
	$(call reproduce,$(addsuffix /imagenet,dist dkd torchdistill))

reproduce-cityscapes: $(READY) ## the same for Cityscapes
	$(call reproduce,$(addsuffix /cityscapes,cirkd dist akd))

reproduce-camvid: $(READY) ## the same for CamVid
	$(call reproduce,cirkd/camvid)

table: $(READY) ## every reported number beside the measured one, with a verdict
	$(RUN) kdbench table $(if $(SCALE),--scale $(SCALE))

plots: $(READY) ## measured against reported, gains, learning curves, history over commits (PNG and SVG)
	$(RUN) kdbench plots $(if $(SCALE),--scale $(SCALE))

compare: $(READY) ## what changed in accuracy and speed from BASE=results/baselines to HEAD=results/runs
	@$(RUN) kdbench compare "$(BASE)" "$(HEAD)"

guard: $(READY) ## every method must compute the losses of results/baselines/first_losses.json; UPDATE=1 writes it anew
	$(RUN) kdbench guard $(if $(UPDATE),--update)

bench: $(READY) ## benchmarks, beside the last saved of this machine: SELECT='cohort or coco' QUICK=1 (few and short)
	$(RUN) pytest tests/perf -rs --timeout 3600 --benchmark-autosave $(if $(QUICK),--quick) \
		$(if $(SELECT),-k "$(SELECT)")

check: $(READY) ## validate tables, recipes, reported numbers, data and results without training
	$(RUN) kdbench check $(if $(DATA),--data "$(DATA)")

test: $(READY) ## the tests
	$(RUN) pytest

lint: $(READY) ## ruff and mypy
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	@# Type checkers do not follow an installation that maps folders: they get a tree of links.
	rm -rf build/types; mkdir -p build/types/kdbench
	ln -s $(CURDIR)/bench/* $(CURDIR)/methods $(CURDIR)/datasets $(CURDIR)/results build/types/kdbench/
	$(RUN) mypy

clean: ## remove what runs left behind, teachers included
	rm -rf results/runs results/tables results/plots
