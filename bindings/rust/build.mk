# Tests and checks the Rust crates. The Makefile includes this file.

RUST_HOME    := $(TOOLS)/rust
RUSTUP       := https://static.rust-lang.org/rustup/archive/1.28.2/x86_64-unknown-linux-gnu/rustup-init
RUSTUP_SUM   := 20a06e644b0d9bd2fbdbfd52d42540bdde820ea7df86e92e533c073da0cdd43c
RUST_VERSION := $(shell sed -n 's/^channel = "\(.*\)"/\1/p' bindings/rust/rust-toolchain.toml)

# The machine's cargo where it has one, else the one that set-up puts below .tools.
RUST_PATH := PATH="$$PATH:$(RUST_HOME)/toolchains/$(RUST_VERSION)-x86_64-unknown-linux-gnu/bin"
CARGO      = cd bindings/rust && $(RUST_PATH) GENESIS_MOE_LIB_DIR=$(CURDIR)/build GENESIS_MOE_LIBRARY=$(CURDIR)/$(LIBRARY) $(1) cargo
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
	$(call CARGO,DOCS_RS=1) package -q --workspace --locked --allow-dirty

# The tests that call the library. The sanitizer is a nightly feature: hence RUSTC_BOOTSTRAP.
MEMORY_TESTS := $(addprefix --test ,clans fork layer library meter monitor ndarray tensor threads vectors)
check-rust-memory: build $(STAMPS)/rust ## Rust tests under the address sanitizer
	$(call CARGO,RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address) test -q -p genesis-moe $(LINKED) $(MEMORY_TESTS) \
	  --target x86_64-unknown-linux-gnu --target-dir ../../build/rust-asan

$(STAMPS)/rust: bindings/rust/rust-toolchain.toml bindings/rust/Cargo.lock examples/rust/candle/Cargo.lock
	$(call quietly,Rust (the machine's or $(RUST_VERSION)$(comma) and crates),\
	 if ! command -v cargo; then \
	   curl -sSf --retry 3 -o $(TOOLS)/rustup-init $(RUSTUP) && echo '$(RUSTUP_SUM)  $(TOOLS)/rustup-init' | sha256sum -c - \
	   && chmod +x $(TOOLS)/rustup-init && RUSTUP_HOME=$(RUST_HOME) CARGO_HOME=$(RUST_HOME) $(TOOLS)/rustup-init -y --no-modify-path \
	      --profile minimal -c clippy -c rustfmt --default-toolchain $(RUST_VERSION); \
	 fi && $(call CARGO) fetch -q --locked && $(RUST_PATH) cargo fetch -q --locked --manifest-path $(CANDLE) && touch $@)

.PHONY: test-rust test-rust-candle check-rust check-rust-memory
