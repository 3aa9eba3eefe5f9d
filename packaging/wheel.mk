# make wheel: dist/genesis_moe-*.whl for any Linux with glibc 2.28 or newer, with the library,
# its BLAS, the headers and all licences, and the source distribution. The Makefile includes this file.

WHEEL_PLATFORM := manylinux_2_28_x86_64
WHEEL_LIBRARY  := build/wheel/libgenesis_moe.so
WHEEL_STAGE    := build/wheel/stage

wheel: build $(STAMPS)/packaging ## dist/: the wheel (glibc 2.28, bundled BLAS) and the sdist
	@printf '==> library for %s\n' $(WHEEL_PLATFORM)
	@$(MAKE) -s --no-print-directory LIBRARY=$(WHEEL_LIBRARY) CC=$(CURDIR)/packaging/zig-cc $(WHEEL_LIBRARY)
	@rm -rf $(WHEEL_STAGE) dist && mkdir -p $(WHEEL_STAGE)/go dist
	@git ls-files bindings/python | grep -v /tests/ | tar -c -T - | tar -x -C $(WHEEL_STAGE) --strip-components=2
	@git ls-files go.mod go.sum include capi core cuda experts router | grep -v -e testdata -e _test.go | tar -c -T - | tar -x -C $(WHEEL_STAGE)/go
	@TAGS='$(strip $(LIBRARY_TAGS))' packaging/licences $(WHEEL_STAGE)/licences $(BLAS_LICENCE)
	@cd $(WHEEL_STAGE) && $(CURDIR)/$(PY) -m hatchling build -t sdist -d $(CURDIR)/dist
	@mkdir $(WHEEL_STAGE)/src/genesis_moe/lib $(WHEEL_STAGE)/src/genesis_moe/include
	@cp $(WHEEL_LIBRARY) $(addprefix build/wheel/,$(notdir $(BLAS_FILES))) $(WHEEL_STAGE)/src/genesis_moe/lib
	@cp include/*.h include/*.hpp $(WHEEL_STAGE)/src/genesis_moe/include
	@cd $(WHEEL_STAGE) && GENESIS_MOE_WHEEL_PLATFORM=$(WHEEL_PLATFORM) $(CURDIR)/$(PY) -m hatchling build -t wheel -d $(CURDIR)/dist
	@$(TOOLS)/packaging/bin/auditwheel show dist/*.whl

.PHONY: wheel
