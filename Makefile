# Thin: every target is one call of python -m pipelines | compressor_model | trainer. `make help` lists them.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.complete

PROXY  ?= neural
CORPUS ?= stdlib

# Where preprocess writes by these options, unless OUT or DATA says otherwise.
DATA   ?= $(or $(OUT),$(shell $(PY) -m pipelines.default_out '$(CORPUS)' '$(PROXY)' '$(CODER)' '$(BITS)'))

# An option is passed on only where it was given, so that the programs' own defaults hold.
opt = $(if $($(1)),--$(2) $(call quote,$($(1))))
quote = '$(subst ','\'',$(1))'

PREPROCESS = $(call opt,PROXY,proxy) $(call opt,CORPUS,corpus) $(call opt,OUT,out) $(call opt,RUNNER,runner) \
	$(call opt,WORKERS,workers) $(call opt,CODER,coder) $(call opt,BITS,bits) $(call opt,TOKENIZER,tokenizer) \
	$(call opt,COMPRESSOR,compressor) $(ARGS)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install preprocess verify manifest sql inspect stability compressor check lint types test test-slow bench format clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# torch first and alone, so that a machine may hold its own build of this very version.
$(STAMP): pyproject.toml requirements.lock
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..."; rm -rf $(VENV); exit 1; }
	@echo "installing into $(VENV) (once)"
	@$(PY) -m pip install --quiet --disable-pip-version-check $$(grep -E '^torch==' requirements.lock)
	@$(PY) -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[dask,s3,dev]'
	@touch $@

install: $(STAMP)  ## make .venv from requirements.lock

preprocess: $(STAMP)  ## corpus -> verified Parquet shards: PROXY=neural|bpe|gzip|identity CORPUS=... OUT=... WORKERS=n
	@$(PY) -m pipelines preprocess $(PREPROCESS)

verify: $(STAMP)  ## check every byte of a dataset: DATA=...
	@$(PY) -m pipelines verify $(call opt,DATA,data) $(ARGS)

manifest: $(STAMP)  ## make the manifest and the row-group table anew from the receipts: DATA=...
	@$(PY) -m pipelines manifest $(call opt,DATA,data) $(ARGS)

inspect: $(STAMP)  ## show a document cut at its symbols: DATA=... [ARGS='--doc ID']
	@$(PY) -m pipelines inspect $(call opt,DATA,data) $(ARGS)

sql: $(STAMP)  ## DuckDB over a dataset: DATA=... [Q='select ...']
	@$(PY) -m pipelines sql $(call opt,DATA,data) $(call opt,Q,query) $(ARGS)

stability: $(STAMP)  ## how much a proxy's symbols change when text is edited: PROXY=... CORPUS=...
	@$(PY) -m pipelines measure stability $(call opt,PROXY,proxy) $(call opt,CORPUS,corpus) $(call opt,CODER,coder) $(call opt,BITS,bits) $(call opt,TOKENIZER,tokenizer) $(call opt,COMPRESSOR,compressor) $(ARGS)

compressor: $(STAMP)  ## train a byte LM and distil a compressor from it: CORPUS=... OUT=... BITS=...
	@$(PY) -m compressor_model fit $(call opt,CORPUS,corpus) $(call opt,OUT,out) $(if $(BITS),--bits $(BITS)) $(ARGS)

check: lint types test  ## what CI runs

lint: $(STAMP)  ## ruff: rules and format
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

format: $(STAMP)  ## rewrite with ruff
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

types: $(STAMP)  ## mypy, strict
	@$(PY) -m mypy

test: $(STAMP)  ## the tests that take minutes at most
	@$(PY) -m pytest $(ARGS)

test-slow: $(STAMP)  ## all tests, the long ones too
	@$(PY) -m pytest -m 'slow or not slow' $(ARGS)

bench: $(STAMP)  ## the figures of benchmarks/RESULTS.md
	@$(PY) -m benchmarks.preprocess $(ARGS)

clean:  ## remove the virtual environment and caches (never data/)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build *.egg-info
