# `make test` installs what the tests need and runs them; `make verify` runs every check and writes nothing but build
# output; `make fix` mends what a tool can mend.
.DEFAULT_GOAL := help
.PHONY: help build deps test verify check format lint docs tidy fix simulate bench

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

bench: ## measures against Apache Kafka from its jars; keep the machine otherwise idle
	tests/install.sh bench
	$(CARGO) build --release --locked --workspace --bins
	$(CARGO) run --release --locked -p quorate-tests --bin measure
