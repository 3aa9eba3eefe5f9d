# Builds build/libgenesis_moe.so and puts a BLAS beside it. The Makefile includes this
# file and defines
#   LIBRARY       the library to build
#   GO            the go command
#   CUDA_HEADERS  a folder with cuda.h of CUDA 12.x; without it the library has no
#                 CUDA driver access, and its doctor says so
#   BLAS_DIR      the folder of a BLAS and what it needs, which is copied; optional

LIBRARY_SOURCES := $(shell find capi core router experts cuda include -name '*.go' ! -name '*_test.go' \
                     -o -name '*.[chsS]' -o -name '*.map' -o -name '*.so') go.mod go.sum capi/build.mk
LIBRARY_LDFLAGS := -s -w -extldflags "-Wl,-soname,libgenesis_moe.so.0 \
                     -Wl,--version-script=$(CURDIR)/capi/exports.map -Wl,-z,now -Wl,--as-needed"

$(LIBRARY): $(LIBRARY_SOURCES) $(wildcard $(CUDA_HEADERS)/cuda.h)
	@mkdir -p $(dir $@)
	CGO_ENABLED=1 $(GO) build -trimpath -buildmode=c-shared -ldflags '$(LIBRARY_LDFLAGS)' -o $@ ./capi
	@rm -f $(@:.so=.h)
	@$(if $(BLAS_DIR),cp $(BLAS_DIR)/*.so* $(dir $@))
