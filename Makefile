# Thin: every target is one call of python -m pipelines | compressor_model | trainer. `make help` lists them.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.complete

PROXY  ?= neural
CORPUS ?= stdlib

# Where preprocess writes by these options, unless OUT or DATA says otherwise.
DATA   ?= $(or $(OUT),$(shell $(PY) -m pipelines.default_out '$(CORPUS)' '$(PROXY)' '$(CODER)' '$(BITS)' '$(SEGMENTATION)' '$(WINDOWS)' '$(FUZZ)'))

# An option is passed on only where it was given, so that the programs' own defaults hold.
opt = $(if $($(1)),--$(2) $(call quote,$($(1))))
# The same of a variable that has a default here, if the user gave it.
given = $(if $(filter command environment,$(origin $(1))),--$(2) $(call quote,$($(1))))
quote = '$(subst ','\'',$(1))'

PROXY_OPTIONS = $(call opt,PROXY,proxy) $(call opt,CODER,coder) $(call opt,BITS,bits) \
	$(call opt,SEGMENTATION,segmentation) $(call opt,WINDOWS,windows) $(call opt,FUZZ,fuzz) \
	$(call opt,TOKENIZER,tokenizer) $(call opt,COMPRESSOR,compressor)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install preprocess verify manifest summary sql inspect measure demo train generate evaluate study report export plan compressor check lint types test test-slow docs bench format clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# torch first and alone, so that a machine may hold its own build of this very version.
$(STAMP): pyproject.toml requirements.lock
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..."; rm -rf $(VENV); exit 1; }
	@echo "installing into $(VENV) (once)"
	@$(PY) -m pip install --quiet --disable-pip-version-check $$(grep -E '^torch==' requirements.lock)
	@$(PY) -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[dask,s3,eval,dev]'
	@touch $@

install: $(STAMP)  ## make .venv from requirements.lock

preprocess: $(STAMP)  ## corpus -> verified Parquet shards: PROXY=neural|bpe|gzip|identity CORPUS=... OUT=... WORKERS=n RUNNER=...
	@$(PY) -m pipelines preprocess $(call opt,CORPUS,corpus) $(PROXY_OPTIONS) $(call opt,OUT,out) $(call opt,RUNNER,runner) $(call opt,SCHEDULER,scheduler) $(call opt,WORKERS,workers) $(ARGS)

verify: $(STAMP)  ## check every byte of a dataset: DATA=...
	@$(PY) -m pipelines verify $(call opt,DATA,data) $(ARGS)

manifest: $(STAMP)  ## make the manifest and the row-group table anew from the receipts: DATA=...
	@$(PY) -m pipelines manifest $(call opt,DATA,data) $(ARGS)

summary: $(STAMP)  ## what the job that made a dataset did: speed, rejects, slowest units: DATA=...
	@$(PY) -m pipelines summary $(call opt,DATA,data) $(ARGS)

inspect: $(STAMP)  ## show a document cut at its symbols: DATA=... [ARGS='--doc ID']
	@$(PY) -m pipelines inspect $(call opt,DATA,data) $(ARGS)

sql: $(STAMP)  ## DuckDB over a dataset: DATA=... [Q='select ...']
	@$(PY) -m pipelines sql $(call opt,DATA,data) $(call opt,Q,query) $(ARGS)

measure: $(STAMP)  ## which proxy will work on a corpus: stability and fuzziness of all, as a page: CORPUS=... OUT=folder
	@$(PY) -m pipelines measure both $(call opt,CORPUS,corpus) $(PROXY_OPTIONS) --out $(call quote,$(or $(OUT),data/measure)) $(ARGS)

# The whole way at toy size. Each line is a command of its own; what they write lies in data/demo and runs/demo.
# Documents of 512 bytes and 4 sequences of 512 ids: a step of so few ids needs them from many documents, since a long
# one that is shown raw fills its lane for many steps.
DEMO_STEPS ?= 2400
demo: $(STAMP)  ## the whole way on the sources of this Python: shards, a trained byte model, what it knows (minutes)
	@$(PY) -m pipelines preprocess --corpus stdlib --bits 12 --compressor pretrained --max-document-bytes 512 --out data/demo
	@$(PY) -m trainer train --data data/demo --run runs/demo --scale tiny --batch 4 --sequence 512 --steps $(DEMO_STEPS) --val-fraction 0.05 --checkpoint-every 200
	@{ \
	  echo "== shards =="; \
	  $(PY) -m pipelines sql --data data/demo --query 'from documents select "group", count(*) documents, sum(raw_bytes) raw_bytes, round(sum(raw_bytes) / sum(comp_symbols), 3) bytes_per_symbol group by all'; \
	  $(PY) -m pipelines sql --data data/demo --query 'from symbols select id, any_value(bytes) bytes, count(*) n group by id order by n desc limit 8'; \
	  echo "== bits per byte on held-out raw documents =="; \
	  $(PY) -m trainer evaluate bpb --run runs/demo --documents 600 --views raw; \
	  echo "== from bytes alone =="; \
	  $(PY) -m trainer generate --run runs/demo --temperature 0.7 --max-bytes 300 --prompt 'def read_file(path):'; \
	  echo "== training =="; \
	  $(PY) -m trainer plot --run runs/demo; \
	} 2>&1 | tee runs/demo/summary.txt
	@echo "summary: runs/demo/summary.txt"

train: $(STAMP)  ## train a byte-level model: SCALE=tiny|100m|... DATA=... MODE=... RUN=... [PROCESSES=n] ARGS='--steps n'
	@$(PY) -m $(if $(PROCESSES),torch.distributed.run --standalone --nproc-per-node $(PROCESSES) -m --) trainer train $(call opt,DATA,data) $(call opt,SCALE,scale) $(call opt,MODE,mode) $(call opt,RUN,run) $(ARGS)

generate: $(STAMP)  ## bytes from a trained model: RUN=... PROMPT=...
	@$(PY) -m trainer generate $(call opt,RUN,run) $(call opt,PROMPT,prompt) $(ARGS)

evaluate: $(STAMP)  ## what a model knows: RUN=... WHAT=all|bpb|translation|humaneval|robustness|cost
	@$(PY) -m trainer evaluate $(call quote,$(or $(WHAT),bpb)) $(call opt,RUN,run) $(ARGS)

study: $(STAMP)  ## compare ways to train, all by one command that goes on: PRESET=smoke|cpu|h200|paper CORPUS=... OUT=...
	@$(PY) -m trainer study $(call opt,PRESET,preset) $(call given,CORPUS,corpus) $(call opt,OUT,out) $(ARGS)

report: $(STAMP)  ## one HTML page of a dataset, runs, a study: DATA=... RUN='a b' STUDY=... OUT=... (nothing: of the demo)
	@$(PY) -m pipelines report $(call given,DATA,data) $(if $(RUN),--run $(RUN)) $(call opt,STUDY,study) $(call opt,TOKENIZER,tokenizer) $(call opt,OUT,out) $(ARGS)

export: $(STAMP)  ## a trained model in the Hugging Face format of EvaByte: RUN=... OUT=... ARGS='--kind full'
	@$(PY) -m trainer export $(call opt,RUN,run) $(call opt,OUT,out) $(ARGS)

# With CORPUS_BYTES=3.3TB [PROXY=... CODER=...] [WORKERS=n] what preprocessing takes.
plan: $(STAMP)  ## what a run takes on GPUs that need not be there: SCALE=... GPUS=n; or a job: CORPUS_BYTES=3.3TB WORKERS=n
	@$(PY) -m $(if $(CORPUS_BYTES),pipelines plan --corpus-bytes $(call quote,$(CORPUS_BYTES)) $(PROXY_OPTIONS) $(call opt,WORKERS,workers),trainer plan $(call opt,SCALE,scale) $(call opt,GPUS,gpus)) $(ARGS)

compressor: $(STAMP)  ## train a byte LM and distil a compressor from it: CORPUS=... LM=small|paper OUT=... BITS='12 16'
	@$(PY) -m compressor_model fit $(call opt,CORPUS,corpus) $(call opt,LM,lm) $(call opt,OUT,out) $(if $(BITS),--bits $(BITS)) $(ARGS)

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

docs: $(STAMP)  ## the reference pages, docs/commands and docs/api.md, from the programs
	@$(PY) -m docs.reference

bench: $(STAMP)  ## the figures of benchmarks/RESULTS.md
	@$(PY) -m benchmarks.preprocess $(ARGS)
	@$(PY) -m benchmarks.compressor speed
	@$(PY) -m benchmarks.loader
	@$(PY) -m benchmarks.trainer --data data/stdlib-neural

clean:  ## remove the virtual environment and caches (never data/)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build *.egg-info
