# `make test` installs what the tests need and runs them; `make verify` runs every check and writes nothing but build
# output; `make fix` mends what a tool can mend.
.DEFAULT_GOAL := help
.PHONY: help build deps test verify check format lint docs tidy fix simulate conformance sanitize bench backends

CARGO ?= cargo

help: ## this text
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

build: ## the binary, as it is tested and shipped
	$(CARGO) build --release --locked --bin quorate

deps: ## what the tests need: clients, etcd, jars, into .deps
	tests/install.sh

# Two runs, because the second builds the broker's library with switches that break it on purpose, and the processes
# that it starts must be the binary that is shipped.
test: deps build ## every test
	$(CARGO) test --release --locked --workspace --exclude quorate-tests
	$(CARGO) test --release --locked -p quorate-tests

verify: test check ## every test and every check

check: format lint docs tidy ## formatting, lints, documentation, tidiness

format:
	$(CARGO) fmt --all --check

lint:
	$(CARGO) clippy --release --locked --workspace --all-targets -- -D warnings

docs:
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" $(CARGO) doc --release --locked --workspace --no-deps

tidy:
	$(CARGO) test --release --locked -p quorate-tests --test tidy

fix: ## formats, and applies what clippy offers
	$(CARGO) fmt --all
	$(CARGO) clippy --workspace --all-targets --fix --allow-dirty --allow-staged

simulate: ## 2,000 fresh seeds of the simulator
	SIMULATION_SEEDS=$$(date +%s)+2000 $(CARGO) test --release --locked -p quorate-tests --test simulation -- --nocapture

conformance: deps build ## the full list of the conformance suite on every backend
	$(CARGO) test --release --locked -p quorate-tests --test conformance --test floor --test raft
	CONFORMANCE=full $(CARGO) test --release --locked -p quorate-tests --test processes -- --nocapture

# C code is checked, and the host where it copies what C lends it, because its memory comes from the same checked heap.
# Nothing is said about leaks: a host never unloads a library.
CHECKED = env LD_PRELOAD=$(shell cc -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0
CHECK = $(CARGO) test --release --locked --config "target.'cfg(all())'.runner = '$(CHECKED)'"
sanitize: ## libraries in C, good and hostile, under checks of addresses and undefined behaviour
	SANITIZE=address,undefined $(CHECK) -p quorate-consensus-plugin --test hostile
	SANITIZE=address,undefined $(CHECK) -p quorate-tests --test plugins shared_folder_in_c

bench: ## measures against Apache Kafka from its jars; keep the machine otherwise idle
	tests/install.sh bench
	$(CARGO) build --release --locked --workspace --bins
	$(CARGO) run --release --locked -p quorate-tests --bin measure

backends: ## measures the consensus backends and writes docs/choosing-a-backend.md; keep the machine otherwise idle
	tests/install.sh
	$(CARGO) build --release --locked --workspace --bins --examples --lib
	$(CARGO) run --release --locked -p quorate-tests --bin backends
