# make study      the embedded study: train, evaluate, tables, figures, notebooks (about 10 minutes on two cores)
# make quick      the tests of an edit loop, a minute     make test   all of them     make test-full   slower checks, too
# make tables     rebuild every table from the committed predictions
# make report     one HTML file of findings, tables, figures and provenance: runs/report.html
# make recognisers, make study-full, make smoke: see README.md

VENV := .venv
RUN := $(VENV)/bin/python
# the first Python from 3.11 to 3.13; PYTHON=... overrides
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)

.PHONY: study study-full smoke tables report recognisers quick test test-full
.DEFAULT_GOAL := study

$(VENV)/installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "rastudy needs Python 3.11, 3.12 or 3.13; name it with PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet --editable '.[test]'
	touch $@

study: $(VENV)/installed
	$(RUN) -m rastudy sweep --preset digits

study-full: $(VENV)/installed
	$(RUN) -m rastudy sweep --preset digits --full

smoke: $(VENV)/installed
	$(RUN) -m rastudy sweep --preset smoke

tables: $(VENV)/installed
	$(RUN) -m rastudy tables
	$(RUN) -m rastudy transfer
	$(RUN) -m rastudy boundaries --preset digits cifar10 imagenet_lite --tables
	$(RUN) -m rastudy report --readme

report: $(VENV)/installed
	$(RUN) -m rastudy report

recognisers: $(VENV)/installed
	$(RUN) -m rastudy recognisers --preset digits

PYTEST := $(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

quick: $(VENV)/installed
	$(PYTEST) -m "not full and not slow"

test: $(VENV)/installed
	$(PYTEST) -m "not full"

test-full: $(VENV)/installed
	$(PYTEST)
