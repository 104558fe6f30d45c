# `make demo` and `make test` do all the set-up that they need; `make help` lists the rest.
PYTHON ?= python3
VENV ?= .venv
# What pip is told to install for torch, e.g. make test TORCH="torch==2.14.1 --index-url URL"; constraints.txt by default.
TORCH ?= torch
OUT ?= build/demo
DATA ?= examples/ersm/scenes
TARGET ?= cpu
IMAGES ?= 200
ARGS ?=
SHELL := /bin/bash

need = $(or $($(1)),$(error $(1) is missing: make $(MAKECMDGOALS) $(1)=…))

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input
FOVEATE := $(BIN)/foveate

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow lint types links export calibrate build verify bench stream report clean

help:  ## list the targets
	@echo "make demo and make test need nothing but Python 3.10 to 3.13 and do all the set-up. Targets:"
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED)  ## create $(VENV) and install Foveate with all that demo and tests need
$(INSTALLED): pyproject.toml setup.py constraints.txt $(wildcard runtime/native/*.cpp runtime/native/*.h runtime/cuda/*.cu* runtime/cuda/*.cpp runtime/cuda/*.h)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "error: $(PYTHON) is $$($(PYTHON) --version 2>&1); expected Python 3.10 to 3.13: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 2; }
	@echo "installing into $(VENV) (once; some minutes on a slow connection)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@if [ "$(TORCH)" = torch ]; then cp constraints.txt $(VENV)/constraints.txt; \
	  else grep -v '^torch' constraints.txt > $(VENV)/constraints.txt; fi
	@{ $(PIP) -c $(VENV)/constraints.txt $(TORCH) && \
	   $(PIP) -c $(VENV)/constraints.txt -e '.[cpu,export,transformers,metrics,report,tensorrt,modelopt,video,dev]'; } > $(VENV)/install.log 2>&1 || \
	  { cat $(VENV)/install.log; echo "error: installation failed; the lines above say why"; exit 3; }
	@touch $@

demo: $(INSTALLED)  ## compile the trained example, verify and measure it, write its report (in OUT)
	@$(FOVEATE) compile examples/ersm/masked.safetensors --baseline examples/ersm/baseline.safetensors \
	  --data $(DATA) --limit $(IMAGES) --out $(OUT) $(ARGS)

test: $(INSTALLED)  ## run the tests
	@$(BIN)/pytest $(ARGS)

test-slow: $(INSTALLED)  ## run the tests that take minutes
	@$(BIN)/pytest -m slow $(ARGS)

lint: $(INSTALLED)  ## check style and format
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

types: $(INSTALLED) links  ## check types
	@$(BIN)/pyright --pythonpath $(BIN)/python

links:
	@mkdir -p build/types/foveate
	@for folder in export runtime pipeline calibration; do ln -sfn ../../../$$folder build/types/foveate/$$folder; done
	@for file in __init__.py py.typed; do ln -sfn ../../../foveate/$$file build/types/foveate/$$file; done

export: $(INSTALLED)  ## CKPT=… OUT=….onnx: checkpoint -> program
	@$(FOVEATE) export $(call need,CKPT) $(ARGS) \
	  --out $(if $(filter file,$(origin OUT)),build/$(basename $(notdir $(CKPT))).onnx,$(OUT))

calibrate: $(INSTALLED)  ## BUNDLE=… DATA=… (or STREAM=…) MAX_DROP=0.5 PRECISION=int8: the cheapest choices that lose at most .5 percent points
	@$(FOVEATE) calibrate $(or $(BUNDLE),$(OUT)) $(if $(STREAM),--stream $(STREAM),--data $(DATA)) \
	  $(if $(MAX_DROP),--max-drop $(MAX_DROP)%) $(if $(PRECISION),--precision $(PRECISION)) $(ARGS)

build: $(INSTALLED)  ## PROGRAM=… TARGET=cpu OUT=…: program -> bundle; without PROGRAM: the bundle OUT anew
	@$(FOVEATE) build $(or $(PROGRAM),$(OUT)) --target $(TARGET) --out $(OUT) $(ARGS)

verify: $(INSTALLED)  ## compare the bundle OUT with its dense reference on DATA
	@$(FOVEATE) verify $(OUT) --data $(DATA) $(ARGS)

bench: $(INSTALLED)  ## measure the bundle OUT on DATA; TARGET=tensorrt:fp16, cuda:fp16, torch:fp16: on a GPU, the example if there is no bundle
	@test -f $(OUT)/manifest.json || { $(FOVEATE) export examples/ersm/masked.safetensors --out $(OUT).onnx && \
	  $(FOVEATE) export examples/ersm/baseline.safetensors --out $(OUT).baseline.onnx && \
	  $(FOVEATE) build $(OUT).onnx --target $(TARGET) --out $(OUT); }
	@$(FOVEATE) bench $(OUT) --data $(DATA) $(if $(filter file,$(origin TARGET)),,--target $(TARGET)) \
	  $(if $(or $(BASELINE),$(wildcard $(OUT).baseline.onnx)),--baseline $(or $(BASELINE),$(OUT).baseline.onnx)) $(ARGS)

stream: $(INSTALLED)  ## MODEL=….onnx VIDEO=… OUT=…: a video through a program or bundle, with its report
	@$(FOVEATE) stream $(call need,MODEL) $(call need,VIDEO) $(ARGS) \
	  --out $(if $(filter file,$(origin OUT)),build/$(basename $(notdir $(MODEL)))-stream,$(OUT))

report: $(INSTALLED)  ## print the result table of OUT and put it into the README
	@$(BIN)/python benchmarks/readme_table.py $(OUT)/report/report.json

clean:  ## remove what was built (keeps $(VENV))
	@rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
