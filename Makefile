# One word per task. `make` lists them; `.ci/run` uses the same ones.
#
#   make test                        creates .venv once, installs the locked libraries, runs the tests
#   make test VENV=/some/folder      keeps the environment elsewhere
#   make test PYTHON=python          uses an interpreter that already has all libraries; nothing is installed

VENV ?= .venv
BOOTSTRAP ?= $(shell command -v python3.11 || command -v python3 || echo python3)
UV_VERSION := 0.13.9
CYCLONEDX_VERSION := 7.5.0
PIP_AUDIT_VERSION := 2.10.1
# One more than there are cores: some tests wait for processes and sockets.
WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
EXTRAS := evaluate train serve dicom nifti data

ifdef PYTHON
READY :=
export PYTHONPATH := $(CURDIR)/src$(if $(PYTHONPATH),:$(PYTHONPATH))
else
PYTHON := $(VENV)/bin/python
READY := $(VENV)/.ready
endif

ifndef BRAINTUMOR_DATA
ifneq ($(wildcard ../shared/data/.),)
export BRAINTUMOR_DATA := $(abspath ../shared/data)
endif
endif

PUBLISHED := runs/cnn-reference/card.json runs/resnet-reference/card.json
FOLDS := runs/folds/resnet-best/evaluation/report.json runs/folds/cnn-best/evaluation/report.json \
	runs/figshare-folds/resnet-best/evaluation/report.json
OFFLINE_WEIGHTS := $(BRAINTUMOR_DATA)/weights/resnet18-imagenet-stem-to-layer3.safetensors

.DEFAULT_GOAL := help
.PHONY: help setup check test test-all demo models lock sbom audit bench bench-all docs clean
.PRECIOUS: runs/%/card.json runs/%/evaluation/report.json

help: ## list the words
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(READY) ## create the environment and install the locked libraries (once)

$(VENV)/.ready: requirements/dev.txt pyproject.toml
	test -x $(VENV)/bin/python || $(BOOTSTRAP) -m venv $(VENV) || $(BOOTSTRAP) -m venv --clear --without-pip $(VENV)
	$(VENV)/bin/python -m pip --version || $(BOOTSTRAP) -m pip --python $(VENV)/bin/python install pip
	$(VENV)/bin/python -m pip install --quiet --require-hashes -r requirements/dev.txt
	$(VENV)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

check: $(READY) ## format, lint, types
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m ruff check
	$(PYTHON) -m mypy

test: $(READY) ## tests that need neither a GPU nor much time
	$(PYTHON) -m pytest -n $(WORKERS) --dist worksteal -m "not slow and not gpu" --durations=20

test-all: $(READY) ## all tests; those whose parts are missing say so and are skipped
	$(PYTHON) -m pytest -n $(WORKERS) --dist worksteal --durations=20

demo: export BRAINTUMOR_CACHE := demo/cache
demo: $(READY) ## train, evaluate and explain on synthetic slices, into demo/
	rm -rf demo
	$(PYTHON) -m braintumor data phantom demo/data --per-class 120
	$(PYTHON) train.py --model cnn --recipe fast --epochs 6 --batch_size 8 --data_dir demo/data --out demo/model
	$(PYTHON) -m braintumor evaluate demo/model demo/data
	$(PYTHON) -m braintumor explain demo/data/Testing/*/*-0000.png --model demo/model --out demo/explanations
	@echo "report:       demo/model/evaluation/report.html"
	@echo "explanations: demo/explanations/"

models: $(PUBLISHED) $(FOLDS) ## train the published models and folds again, for hours; goes on where it was interrupted

runs/cnn-reference/card.json: EPOCHS := 50
runs/resnet-reference/card.json: EPOCHS := 30
runs/resnet-reference/card.json $(filter %resnet-best/evaluation/report.json,$(FOLDS)): WEIGHTS := $(if $(wildcard $(OFFLINE_WEIGHTS)),\
	--weights "$$BRAINTUMOR_DATA/weights/$(notdir $(OFFLINE_WEIGHTS))" --allow_partial_weights,--weights imagenet)

runs/%-reference/card.json: | $(READY)
	@test -n "$$BRAINTUMOR_DATA" || { echo "set BRAINTUMOR_DATA to the folder that holds brain-tumor-mri/"; exit 2; }
	$(PYTHON) train.py --model $* --recipe reference --epochs $(EPOCHS) --data_dir "$$BRAINTUMOR_DATA/brain-tumor-mri" \
		--out $(@D) $(WEIGHTS) $(if $(wildcard $(@D)/checkpoint/state.json),--resume)

runs/figshare-folds/%: SET := figshare
runs/figshare-folds/%: EPOCHS := --epochs 8
runs/folds/%: SET := brain-tumor-mri

runs/%/evaluation/report.json: | $(READY)
	@test -n "$$BRAINTUMOR_DATA" || { echo "set BRAINTUMOR_DATA to the folder that holds $(SET)/"; exit 2; }
	$(PYTHON) -m braintumor folds "$$BRAINTUMOR_DATA/$(SET)" --model $(firstword $(subst -, ,$(notdir $*))) --recipe best \
		--masks "$$BRAINTUMOR_DATA/figshare" --out runs/$* --jobs 2 $(EPOCHS) $(WEIGHTS)

SHORT = $(shell grep -lE '^Takes: [0-9]+ minutes?[.]' benchmarks/*.py)
LONG = $(shell grep -lE '^Takes: long' benchmarks/*.py) \
	$(if $(shell command -v nvidia-smi),$(shell grep -lE '^Takes: [0-9]+ minutes? on a GPU' benchmarks/*.py))

bench: $(READY) ## run the short benchmarks again, with the trained models; results go to benchmarks/results/
	@for card in $(PUBLISHED); do test -f $$card || { echo "$$card is missing; run make models first"; exit 2; }; done
	$(foreach script,$(SHORT),$(PYTHON) $(script) && )$(PYTHON) benchmarks/table.py

bench-all: $(READY) ## run all of them, for hours; those for a GPU only where there is one
	$(foreach script,$(LONG) $(SHORT),$(PYTHON) $(script) && )$(PYTHON) benchmarks/table.py

docs: $(READY) ## write docs/reference/cli.md again, then the pages as HTML to build/docs
	$(PYTHON) docs/generate_cli.py
	$(if $(READY),$(PYTHON) -m pip install --quiet --require-hashes -r requirements/docs.txt)
	$(PYTHON) -m sphinx --quiet --fail-on-warning docs build/docs
	@echo "pages: build/docs/index.html"

LOCK = .venv-lock/bin/uv pip compile --quiet pyproject.toml --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --custom-compile-command "make lock" --exclude-newer "7 days"

lock: ## resolve the libraries again; versions younger than a week are not taken
	test -x .venv-lock/bin/uv || { $(BOOTSTRAP) -m venv .venv-lock && .venv-lock/bin/pip install --quiet uv==$(UV_VERSION); }
	$(LOCK) --extra dev --upgrade --output-file requirements/dev.txt
	for extra in $(EXTRAS) docs; do \
		$(LOCK) --extra $$extra --constraint requirements/dev.txt --output-file requirements/$$extra.txt || exit 1; done
	$(LOCK) --constraint requirements/dev.txt --output-file requirements/use.txt
	$(MAKE) sbom

sbom: ## write requirements/sbom.cdx.json: every library that an installation may hold, as CycloneDX
	test -x .venv-lock/bin/python || $(BOOTSTRAP) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet cyclonedx-bom==$(CYCLONEDX_VERSION)
	cat requirements/use.txt $(EXTRAS:%=requirements/%.txt) \
		| .venv-lock/bin/cyclonedx-py requirements --output-reproducible --output-format JSON - \
		| .venv-lock/bin/python requirements/clean_sbom.py > requirements/sbom.part
	mv requirements/sbom.part requirements/sbom.cdx.json

audit: ## look for known weaknesses in the locked libraries; asks a service on the internet
	test -x .venv-lock/bin/python || $(BOOTSTRAP) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet pip-audit==$(PIP_AUDIT_VERSION)
	for extra in use $(EXTRAS) dev docs; do \
		.venv-lock/bin/pip-audit --strict --disable-pip --require-hashes --requirement requirements/$$extra.txt || exit 1; done

clean: ## remove what can be made again, but not trained models and not the environment
	rm -rf build dist demo comparison explanations .hypothesis .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +
