# Compiles the CUDA kernels; capi/build.mk includes this file. Each cuda/kernels/*.cu
# becomes a fat binary of its own, two at a time and only when it or a header that it
# includes has changed; build/genesis_moe.fatbin is all of them, one behind the other, and
# is embedded in the library. Variables:
#   NVCC   the compiler of CUDA 13.0; without it, or without the C++ compiler that it
#          calls, the file is empty, the library has no kernels, and its doctor says so
#
# The code is for Hopper (sm_90a); every other GPU since Ampere compiles the PTX of
# compute_80 when it loads the kernels.

NVCC         ?= $(CURDIR)/.tools/nvcc/nvidia/cu13/bin/nvcc
CXX          ?= c++
NVCC_TARGETS := -gencode=arch=compute_90a,code=sm_90a -gencode=arch=compute_80,code=compute_80
NVCC_FLAGS   := -std=c++20 -O3 $(NVCC_TARGETS) -Werror=all-warnings -Xptxas=-v

KERNELS_DIR  := build/kernels
FATBIN       := build/genesis_moe.fatbin
KERNELS      := $(patsubst cuda/kernels/%.cu,$(KERNELS_DIR)/%.fatbin,$(sort $(wildcard cuda/kernels/*.cu)))

# Go takes the file for cuda/driver/genesis_moe.fatbin, which go:embed asks for: nothing
# that was built lies among the sources.
OVERLAY := build/overlay.json

$(FATBIN): FORCE
	@mkdir -p $(@D); if test -x $(NVCC) && command -v $(CXX) >/dev/null; then \
	   $(MAKE) -j2 --no-print-directory -s -f cuda/build.mk kernels NVCC=$(NVCC) CXX=$(CXX) && cat $(KERNELS) /dev/null >$@.new; \
	 else echo 'no nvcc or no C++ compiler: the library is built without CUDA kernels'; : >$@.new; fi
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi
	@printf '{"Replace": {"%s/cuda/driver/genesis_moe.fatbin": "%s/%s"}}\n' '$(CURDIR)' '$(CURDIR)' '$@' >$(OVERLAY)

kernels: $(KERNELS)

# The log holds registers, spills and shared memory of each kernel; it is shown when the
# compiler fails.
$(KERNELS_DIR)/%.fatbin: cuda/kernels/%.cu cuda/build.mk
	@mkdir -p $(@D); echo "nvcc $<"
	@$(NVCC) $(NVCC_FLAGS) -ccbin $(CXX) -MMD -MF $(@D)/$*.d -MT $@ -fatbin -o $@ $< >$(@D)/$*.log 2>&1 \
	 || { cat $(@D)/$*.log >&2; rm -f $@; exit 1; }

-include $(wildcard $(KERNELS_DIR)/*.d)

# For tests: the kernels compiled for the host, and a CUDA driver that runs them there.
FAKE_DIR   := build/fake
EMULATED   := $(patsubst cuda/kernels/%.cu,$(FAKE_DIR)/%.o,$(sort $(wildcard cuda/kernels/*.cu))) $(FAKE_DIR)/launch.o
HOST_FLAGS := -std=c++20 -O2 -fPIC -fvisibility=hidden -ffp-contract=off -fno-strict-aliasing -pthread -MMD

fake-cuda: $(FAKE_DIR)/libcuda.so.1 $(FAKE_DIR)/kernels.so

$(FAKE_DIR)/%.o: cuda/kernels/%.cu
	@mkdir -p $(@D); $(CXX) $(HOST_FLAGS) -x c++ -c -o $@ $<

$(FAKE_DIR)/launch.o: cuda/kernels/emulator/launch.cpp
	@mkdir -p $(@D); $(CXX) $(HOST_FLAGS) -c -o $@ $<

$(FAKE_DIR)/kernels.so: $(EMULATED)
	@$(CXX) -shared -pthread -o $@ $(EMULATED)

$(FAKE_DIR)/libcuda.so.1: $(wildcard cuda/testdata/fakecuda/*.[ch])
	@mkdir -p $(@D); $(CC) -std=gnu11 -O1 -g -shared -fPIC -fvisibility=hidden -o $@ $(filter %.c,$^) -ldl -lpthread

-include $(wildcard $(FAKE_DIR)/*.d)

FORCE:
.PHONY: FORCE kernels fake-cuda
