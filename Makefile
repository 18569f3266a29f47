# kdbench. `make help` lists the targets.
PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= dev,report,export
READY := $(VENV)/.ready
DOCS_VENV ?= .venv-docs
DOCS_READY := $(DOCS_VENV)/.ready
# Tools are run as modules: scripts name the interpreter by a path, which no longer holds where a folder has moved.
RUN := $(VENV)/bin/python -m

SEEDS ?=
METHODS ?=
PAIRS ?=
COHORT ?=
SCALE ?=
DATA ?=
SET ?=
BASE ?= results/baselines
HEAD ?= results/runs
SELECT ?=
QUICK ?=
UPDATE ?=
PROCESSES ?= $(shell $(PYTHON) -c 'import os; print(os.cpu_count() or 1)')
IN_PROCESSES = --maxprocesses 4 --dist loadfile --no-loadscope-reorder --numprocesses
OPTIONS = $(if $(SEEDS),--seeds $(SEEDS)) $(if $(METHODS),--methods "$(METHODS)") $(if $(PAIRS),--pairs "$(PAIRS)") \
	$(if $(SCALE),--scale $(SCALE)) $(if $(COHORT),--cohort $(COHORT)) $(if $(DATA),--data "$(DATA)") \
	$(foreach pair,$(SET),--set $(pair))

.DEFAULT_GOAL := help
.PHONY: help setup test test-integration test-slow lint reproduce-coco reproduce-coco-all reproduce-cifar100 reproduce-imagenet reproduce-cityscapes reproduce-camvid table readme plots report compare guard bench check docs docs-venv types mypy clean

help: ## this list
	@echo "make TARGET [SEEDS=3] [METHODS=dist,mimic] [SCALE=full|mini] [DATA=PATH] [SET='epochs=1 batch_size=4']"
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1|/' | awk -F'|' '{printf "  %-21s %s\n", $$1, $$2}'

setup: $(READY) ## make the virtual environment (VENV=.venv)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "kdbench needs Python 3.11 or newer; name one with make PYTHON=python3.12"; exit 1; }
	@# pip takes a half-installed package for a complete one: an interrupted environment is built from scratch.
	test -x $(VENV)/bin/python -a ! -e $(VENV)/.unfinished || $(PYTHON) -m venv --clear $(VENV)
	touch $(VENV)/.unfinished
	$(RUN) pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$(EXTRAS)]"
	mv $(VENV)/.unfinished $(READY)

# Run the tables of a data set, then print them, unless the request itself was refused.
reproduce = @$(RUN) kdbench run $(1) $(OPTIONS); status=$$?; \
	test $$status -ge 2 || $(RUN) kdbench table $(1) $(if $(SCALE),--scale $(SCALE)); exit $$status

# Without COCO on disk, the part of the tables that shows gains with intervals in ten minutes on two cores. Cohorts of
# three give a number of jobs that two cores divide evenly.
ifeq ($(DATA)$(filter full,$(SCALE))$(wildcard $(or $(KDBENCH_DATA),data)/coco),)
COCO_METHODS := mimic,cwd,akd+cwd,dist,dist+mimic
COCO_PAIRS := retinanet_r101_fpn->retinanet_r50_fpn,retinanet_x101_fpn->retinanet_r50_fpn
reproduce-coco: SEEDS := $(or $(SEEDS),3)
reproduce-coco: METHODS := $(or $(METHODS),$(COCO_METHODS))
reproduce-coco: PAIRS := $(or $(PAIRS),$(COCO_PAIRS))
reproduce-coco: COHORT := $(or $(COHORT),3)
endif

reproduce-coco: $(READY) ## train and evaluate the COCO tables, on embedded data a part of them, then print them
	$(call reproduce,akd/coco dist/coco)
	@$(if $(COCO_METHODS),echo "This is a part of the tables; make reproduce-coco-all runs every row.")

reproduce-coco-all: $(READY) ## every cell of the COCO tables, on embedded data too
	$(call reproduce,akd/coco dist/coco)

reproduce-cifar100: $(READY) ## the same for the tables of six papers on CIFAR-100
	$(call reproduce,$(addsuffix /cifar100,crd dkd dist granularity ad ekd))

reproduce-imagenet: $(READY) ## the same for ImageNet
	$(call reproduce,$(addsuffix /imagenet,dist dkd torchdistill))

reproduce-cityscapes: $(READY) ## the same for Cityscapes
	$(call reproduce,$(addsuffix /cityscapes,cirkd dist akd))

reproduce-camvid: $(READY) ## the same for CamVid
	$(call reproduce,cirkd/camvid)

table: $(READY) ## what reproduces: the verdicts of every paper's numbers, counted
	$(RUN) kdbench table

readme: $(READY) ## write that into README
	$(RUN) python -m kdbench.report.readme README.md

plots: $(READY) ## measured against reported, gains, learning curves, history over commits (PNG and SVG)
	$(RUN) kdbench plots $(if $(SCALE),--scale $(SCALE))

report: $(READY) ## a page of every cell with its details, results/report/index.html, that opens from disk
	$(RUN) kdbench report

compare: $(READY) ## what changed in accuracy, losses and speed from BASE=results/baselines to HEAD=results/runs
	@$(RUN) kdbench compare "$(BASE)" "$(HEAD)"

guard: $(READY) ## fail if a method's first losses differ from results/baselines/first_losses.json; UPDATE=1 rewrites it
	$(RUN) kdbench guard $(if $(UPDATE),--update)

bench: $(READY) ## speed of the code beside the last saved on this machine: SELECT='cohort or coco' QUICK=1 (under 2 min)
	$(RUN) pytest tests/perf -rs --timeout 3600 --benchmark-autosave $(if $(QUICK),--quick) \
		$(if $(SELECT),-k "$(SELECT)")

check: $(READY) ## validate tables, recipes, reported numbers, data and results without training
	$(RUN) kdbench check $(if $(DATA),--data "$(DATA)")

test: $(READY) ## the tests, in as many processes as there are CPU cores, at most 4 (PROCESSES=1)
	$(RUN) pytest -m "not slow and not integration" $(IN_PROCESSES) $(PROCESSES)

# In one process more than cores: many of these wait for clusters and browsers.
test-integration: $(READY) ## those of clusters, browsers, several GPUs, exports, wheels and networks of full size
	$(RUN) pytest -m "integration and not slow" $(IN_PROCESSES) $$(($(PROCESSES) + 1))

test-slow: $(READY) ## the tests that `make test` leaves out: they repeat what it tests on more data or another engine
	$(RUN) pytest -m slow $(IN_PROCESSES) $(PROCESSES)

lint: $(READY) ## ruff, mypy, codespell, and the documentation without a warning
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	@$(MAKE) --no-print-directory mypy
	$(RUN) codespell_lib
	@if $(MAKE) --no-print-directory docs-venv; then $(MAKE) --no-print-directory docs; \
		else echo "WARNING: the documentation was not built, because $(DOCS_VENV) could not be made"; fi

mypy: $(READY) types
	$(RUN) mypy

# Type checkers and mkdocstrings read source files and do not follow an installation that maps folders.
types:
	@rm -rf build/types; mkdir -p build/types/kdbench
	@ln -s $(CURDIR)/bench/* $(CURDIR)/methods $(CURDIR)/datasets $(CURDIR)/results build/types/kdbench/

docs: $(DOCS_READY) types ## build the documentation into site/ (its environment is .venv-docs)
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/python -m mkdocs build --strict --quiet

docs-venv: $(DOCS_READY)

# Pages need no torch: only the packages of the extra `docs` are installed.
$(DOCS_READY): pyproject.toml constraints.txt
	test -x $(DOCS_VENV)/bin/python -a ! -e $(DOCS_VENV)/.unfinished || $(PYTHON) -m venv --clear $(DOCS_VENV)
	touch $(DOCS_VENV)/.unfinished
	$(DOCS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $$($(PYTHON) -c \
		'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"])')
	mv $(DOCS_VENV)/.unfinished $(DOCS_READY)

clean: ## remove results/runs, tables, plots and report, trained teachers included
	rm -rf results/runs results/tables results/plots results/report
