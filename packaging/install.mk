# make install: the library with its links and its BLAS, the headers, and what pkg-config
# and CMake look for. The Makefile includes this file. Variables, as is usual:
#   PREFIX (/usr/local), LIBDIR, INCLUDEDIR, DOCDIR, and DESTDIR for staging
#
# The real files lie in $(LIBDIR)/genesis_moe, since a BLAS must lie beside the library
# and should not be found by anyone else; $(LIBDIR) holds links.

PREFIX     ?= /usr/local
LIBDIR     ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
DOCDIR     ?= $(PREFIX)/share/doc/genesis_moe

VERSION := $(shell sed -n 's/.*GMOE_VERSION "\(.*\)"/\1/p' capi/shim.h)

BLAS_FILES    = $(if $(BLAS_DIR),$(addprefix build/,$(notdir $(wildcard $(BLAS_DIR)/*.so*))))
BLAS_LICENCE  = $(wildcard $(BLAS_DIR)/../../scipy_openblas32-*.dist-info/licenses/LICENSE.txt)
TEMPLATE      = sed -e 's|@PREFIX@|$(abspath $(PREFIX))|g' -e 's|@LIBDIR@|$(abspath $(LIBDIR))|g' \
                -e 's|@INCLUDEDIR@|$(abspath $(INCLUDEDIR))|g' -e 's|@VERSION@|$(VERSION)|g' \
                -e "s|@LIBDIR_TO_INCLUDEDIR@|$$(realpath -m --relative-to='$(LIBDIR)' '$(INCLUDEDIR)')|g"

install: $(LIBRARY) ## install library, headers, pkg-config and CMake files below PREFIX
	install -d '$(DESTDIR)$(LIBDIR)/genesis_moe' '$(DESTDIR)$(INCLUDEDIR)/genesis_moe' \
	  '$(DESTDIR)$(LIBDIR)/pkgconfig' '$(DESTDIR)$(LIBDIR)/cmake/genesis_moe'
	install -m 755 $(LIBRARY) '$(DESTDIR)$(LIBDIR)/genesis_moe/libgenesis_moe.so.$(VERSION)'
	ln -sf genesis_moe/libgenesis_moe.so.$(VERSION) '$(DESTDIR)$(LIBDIR)/libgenesis_moe.so.0'
	ln -sf libgenesis_moe.so.0 '$(DESTDIR)$(LIBDIR)/libgenesis_moe.so'
	$(if $(BLAS_FILES),install -m 755 $(BLAS_FILES) '$(DESTDIR)$(LIBDIR)/genesis_moe')
	install -m 644 include/*.h include/*.hpp '$(DESTDIR)$(INCLUDEDIR)/genesis_moe'
	TAGS='$(strip $(LIBRARY_TAGS))' packaging/licences '$(DESTDIR)$(DOCDIR)' $(BLAS_LICENCE)
	$(TEMPLATE) packaging/genesis_moe.pc.in >'$(DESTDIR)$(LIBDIR)/pkgconfig/genesis_moe.pc'
	$(TEMPLATE) packaging/genesis_moe-config.cmake.in >'$(DESTDIR)$(LIBDIR)/cmake/genesis_moe/genesis_moe-config.cmake'
	$(TEMPLATE) packaging/genesis_moe-config-version.cmake.in >'$(DESTDIR)$(LIBDIR)/cmake/genesis_moe/genesis_moe-config-version.cmake'

uninstall: ## remove what install put below PREFIX
	rm -rf '$(DESTDIR)$(LIBDIR)/genesis_moe' '$(DESTDIR)$(INCLUDEDIR)/genesis_moe' '$(DESTDIR)$(DOCDIR)' \
	  '$(DESTDIR)$(LIBDIR)/cmake/genesis_moe'
	rm -f '$(DESTDIR)$(LIBDIR)/libgenesis_moe.so' '$(DESTDIR)$(LIBDIR)/libgenesis_moe.so.0' \
	  '$(DESTDIR)$(LIBDIR)/pkgconfig/genesis_moe.pc'

.PHONY: install uninstall
