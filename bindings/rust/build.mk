# Tests and checks the Rust crates. The Makefile includes this file.

RUST_VERSION := $(shell sed -n 's/^channel = "\(.*\)"/\1/p' bindings/rust/rust-toolchain.toml)

CARGO      = cd bindings/rust && GENESIS_MOE_LIB_DIR=$(CURDIR)/build GENESIS_MOE_LIBRARY=$(CURDIR)/$(LIBRARY) $(1) cargo
LINKED    := --locked --features ndarray,half
DYNAMIC   := --locked --features ndarray,half,load-dynamic

test-rust: build $(STAMPS)/rust ## Rust tests, examples and documentation, linked and load-dynamic
	$(call CARGO) test -q $(LINKED)
	$(call CARGO) test -q $(DYNAMIC)

# A workspace of its own, since candle is 160 crates (two minutes of one processor, once).
CANDLE := ../../examples/rust/candle/Cargo.toml
CANDLE_FLAGS := -q --locked --manifest-path $(CANDLE) --target-dir ../../build/rust-candle
test-rust-candle: build $(STAMPS)/rust ## the layer inside a model of candle's: tests, and the example
	$(call CARGO) test $(CANDLE_FLAGS)
	$(call CARGO) run $(CANDLE_FLAGS)

check-rust: build $(STAMPS)/rust ## rustfmt, clippy, documentation, packages
	$(call CARGO) fmt --all --check
	$(call CARGO) fmt --manifest-path $(CANDLE) --check
	$(call CARGO) clippy -q $(LINKED) --all-targets -- -D warnings
	$(call CARGO) clippy -q $(DYNAMIC) --all-targets -- -D warnings
	$(call CARGO,RUSTDOCFLAGS="-D warnings") doc -q $(LINKED) --no-deps
	rm -rf build/rust-package $(UNPACKED)
	$(call CARGO,DOCS_RS=1) package -q --workspace --locked --allow-dirty --target-dir ../../build/rust-package

# cargo takes a crate of the packages' temporary registry for unchanged while its version is: what is left of it goes first.
UNPACKED := $(or $(CARGO_HOME),$(HOME)/.cargo)/registry/src/-*/genesis-moe-*

# The tests that call the library. The sanitizer is a nightly feature: hence RUSTC_BOOTSTRAP.
MEMORY_TESTS := $(addprefix --test ,clans fork growth layer library meter monitor ndarray tensor threads vectors)
check-rust-memory: build $(STAMPS)/rust ## Rust tests under the address sanitizer
	$(call CARGO,RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address) test -q -p genesis-moe $(LINKED) $(MEMORY_TESTS) \
	  --target x86_64-unknown-linux-gnu --target-dir ../../build/rust-asan

# The one tool that is not installed here: where it is missing, set-up passes over the crates.
HAS_CARGO := $(shell command -v cargo)
setup: $(if $(HAS_CARGO),$(STAMPS)/rust)

$(STAMPS)/rust: bindings/rust/rust-toolchain.toml bindings/rust/Cargo.lock examples/rust/candle/Cargo.lock
	@test -n '$(HAS_CARGO)' || { echo 'The Rust crates need cargo, and there is none on the PATH: install Rust $(RUST_VERSION) with' \
	 'clippy and rustfmt (rustup brings them). The other parts do without: make test-go test-python test-packages' >&2; exit 1; }
	$(call quietly,Rust crates,\
	 $(call CARGO) fetch -q --locked && cargo fetch -q --locked --manifest-path $(CANDLE) && touch $@)

.PHONY: test-rust test-rust-candle check-rust check-rust-memory
