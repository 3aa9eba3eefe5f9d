# Builds the library and puts a BLAS beside it. The Makefile includes this file; it
# also works alone, from the top folder: make -f capi/build.mk. Variables:
#   LIBRARY       the library to build
#   GO            the go command
#   CUDA_HEADERS  a folder with cuda.h of CUDA 12.x; without it the library has no
#                 CUDA driver access, and its doctor says so
#   BLAS_DIR      the folder of a BLAS and what it needs, which is copied; optional
#   EXTRA_TAGS    more build tags, for tests
#   STRIP         linker flags that drop symbols; empty to keep them

LIBRARY      ?= build/libgenesis_moe.so
GO           ?= go
CUDA_HEADERS ?= $(CURDIR)/.tools/cuda/nvidia/cuda_runtime/include
BLAS_DIR     ?= $(wildcard .venv/lib/python3*/site-packages/scipy_openblas32/lib)

BUILD_DIR    := $(patsubst %/,%,$(dir $(LIBRARY)))
HAS_CUDA      = $(wildcard $(CUDA_HEADERS)/cuda.h)
LIBRARY_TAGS  = $(if $(HAS_CUDA),gmoe_cuda gmoe_kernels) $(EXTRA_TAGS)

# gorgonia.org/cu links with -lcuda. An empty linker script answers for it on machines
# without a driver; the functions themselves are those of cuda/internal/delayload, so
# the library does not depend on libcuda.
LINK_DIR := $(CURDIR)/build/link

# Go's build cache watches neither headers outside a package's folder nor what a wrapper of
# the compiler does; naming their checksum in the flags makes it see a change.
UNWATCHED_SUM := $(shell cat include/*.h $(wildcard $(CC)) | cksum | cut -d' ' -f1)

export CGO_ENABLED := 1
export CGO_CFLAGS   = -O2 -g -Wno-deprecated-declarations -DGMOE_UNWATCHED_SUM=$(UNWATCHED_SUM) $(if $(HAS_CUDA),-I$(CUDA_HEADERS))
export CGO_LDFLAGS  = -O2 -g -L$(LINK_DIR)

LIBRARY_SOURCES := $(shell find capi core router experts cuda include -name testdata -prune -o \
                     \( -name '*.go' ! -name '*_test.go' -o -name '*.[chsS]' -o -name '*.map' -o -path '*/page/*' \) -print) \
                   go.mod go.sum capi/build.mk
STRIP           ?= -s -w
LIBRARY_LDFLAGS := $(STRIP) -extldflags "-Wl,-soname,libgenesis_moe.so.0 \
                     -Wl,--version-script=$(CURDIR)/capi/exports.map -Wl,-z,now -Wl,--as-needed"

.DEFAULT_GOAL := $(LIBRARY)
include cuda/build.mk # the kernels: FATBIN and OVERLAY

# The new file replaces the old one in one step: a process may be running the old one.
$(LIBRARY): $(LIBRARY_SOURCES) $(BUILD_DIR)/.tags $(FATBIN) | $(LINK_DIR)/libcuda.so
	$(GO) build -trimpath -overlay $(OVERLAY) -buildmode=c-shared -tags '$(strip $(LIBRARY_TAGS))' -ldflags '$(LIBRARY_LDFLAGS)' -o $@.new ./capi
	@mv $@.new $@ && rm -f $@.h && ln -sf $(notdir $@) $@.0
	@$(if $(BLAS_DIR),cp $(BLAS_DIR)/*.so* $(BUILD_DIR))

$(LINK_DIR)/libcuda.so:
	@mkdir -p $(LINK_DIR)
	@echo '/* An empty linker script: see capi/build.mk. */' >$@

# Changes when the tags do: with the CUDA headers installed since, the library is built anew.
$(BUILD_DIR)/.tags: FORCE
	@mkdir -p $(BUILD_DIR)
	@echo '$(LIBRARY_TAGS)' | cmp -s - $@ || echo '$(LIBRARY_TAGS)' >$@

check-valgrind: $(LIBRARY) ## the C and C++ programs under valgrind (minutes)
	$(GO) test -count=1 -tags valgrind -timeout 60m -run Valgrind -v ./capi
.PHONY: check-valgrind
