# make study      the embedded study into runs/study, beside the record: train, evaluate, tables, figures, notebooks, replication
# make quick      the tests of an edit loop, minutes      make test   all of them     make test-full   slower checks, too
# make tables     rebuild every table of the record from its predictions
# make report     one HTML file of findings, tables, figures and provenance: runs/report.html
# make record     for maintainers: the full embedded study in place of the committed one
# make recognisers, make study-full, make smoke: see README.md

VENV := .venv
RUN := $(VENV)/bin/python
# the first Python from 3.11 to 3.13; PYTHON=... overrides
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)

.PHONY: study study-full record smoke tables report recognisers quick test test-full
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

RECORD := RASTUDY_ROOT=$(CURDIR) $(RUN) -m rastudy

record: $(VENV)/installed
	$(RECORD) sweep --preset digits --full --split val
	$(RECORD) sweep --preset digits --full

smoke: $(VENV)/installed
	$(RUN) -m rastudy sweep --preset smoke

tables: $(VENV)/installed
	$(RECORD) tables
	$(RECORD) transfer
	$(RECORD) boundaries --preset digits cifar10 imagenet_lite imagenette --tables
	$(RECORD) report --readme

report: $(VENV)/installed
	$(RUN) -m rastudy report

recognisers: $(VENV)/installed
	$(RUN) -m rastudy recognisers --preset digits --again

PYTEST := $(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

quick: $(VENV)/installed
	$(PYTEST) -m "not full and not slow"

test: $(VENV)/installed
	$(PYTEST) -m "not full"

test-full: $(VENV)/installed
	$(PYTEST)
