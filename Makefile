# Everything is done from here. `make help` lists the targets.

CARGO ?= cargo
RELEASE := target/release
URL ?= http://127.0.0.1:7000
# The program with the bugs that have to be caught. A test is built with it for its dependencies: they
# are then those of `cargo test`, and built already.
PLANTED := --features torture/planted-bugs --bin torture-planted --test telemetry

.DEFAULT_GOAL := help
.PHONY: help start build createEvents test check fmt migrate torture bench bench-quick bench-functions fuzz profile instructions dashboards screenshots up down

help: ## Explain the targets.
	@awk 'BEGIN { FS = ":.*## " } /^[a-zA-Z]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

start: build ## Build and run the server: embedded store in ./data, port 7000. ARGS="--store memory" changes it.
	$(RELEASE)/catchall serve $(ARGS)

build: ## Build the server and the load generator.
	$(CARGO) build --release --locked --package catchall --package create-events

createEvents: build ## Send 10,000 events to the server and check every count. ARGS="--events 1000000" changes it.
	$(RELEASE)/create-events --url $(URL) --verify $(ARGS)

test: ## Run all tests, and the faults in brief. Installs what they need (PostgreSQL, Redis, Prometheus, Chromium, Schemathesis) if it is missing; starts private servers.
	sh scripts/test-dependencies.sh
	$(CARGO) test --workspace --locked
	$(CARGO) build --workspace --locked $(PLANTED)
	target/debug/torture run --server target/debug/catchall --planted target/debug/torture-planted --rounds 1 --seed 1
	target/debug/torture run --server target/debug/catchall --planted target/debug/torture-planted --rounds 1 --kills 4 --only kill
	target/debug/torture power-loss --power-losses 300 --seed $$(date +%s)

torture: build ## Every fault at length, into docs/reliability.md. ARGS="--seed 7 --for 20 --only PostgreSQL"
	sh scripts/test-dependencies.sh
	$(CARGO) build --release --workspace --locked --bin torture
	$(CARGO) build --release --workspace --locked $(PLANTED)
	$(RELEASE)/torture run --server $(RELEASE)/catchall --planted $(RELEASE)/torture-planted \
		--kills 200 --power-losses 10000 --rounds 8 --for 20 --report docs/reliability.md $(ARGS)

check: ## Check the format, the lints (warnings are errors) and the docs.
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked

fmt: ## Format the code.
	$(CARGO) fmt --all

migrate: build ## Bring the schema of the PostgreSQL store up to date. ARGS="--database-url postgres://…"
	$(RELEASE)/catchall migrate $(ARGS)

bench: build ## Measure everything beside its controls, into target/bench/performance.md. ARGS="--only put" picks rows.
	sh scripts/test-dependencies.sh
	$(CARGO) bench --locked --package catchall --bench performance -- $(ARGS)

bench-quick: build ## A useful part of that, in about two minutes.
	sh scripts/test-dependencies.sh
	$(CARGO) bench --locked --package catchall --bench performance -- --quick $(ARGS)

bench-functions: ## Measure the hot pure functions: parsing, folding, encoding.
	$(CARGO) bench --locked --package business --package adapters --package api --bench functions -- $(ARGS)

fuzz: ## Try any bytes on the parsers, a minute each. Needs a nightly compiler and cargo-fuzz. ARGS="-max_total_time=600"
	cd fuzz && for target in path bulk idempotency_key journal spool; do \
		$(CARGO) +nightly fuzz run $$target -- $(or $(ARGS),-max_total_time=60) || exit 1; done

profile: ## Show where the server's CPU goes. Needs perf. ARGS="--events 3000000 --bulk 1000 --connections 4"
	sh scripts/profile.sh $(or $(ARGS),--events 200000 --domains 10000 --connections 64)

instructions: ## Count the instructions that a PUT takes, function by function. Needs valgrind.
	sh scripts/instructions.sh $(ARGS)

dashboards: ## Make deploy/grafana/dashboards from dashboards.py.
	sh scripts/test-dependencies.sh
	target/grafana-foundation-sdk/bin/python -B deploy/grafana/dashboards.py

screenshots: ## Draw the dashboards over a load with an outage, and the page at /, into docs/pictures.
	sh scripts/test-dependencies.sh
	$(CARGO) build --workspace --locked
	$(CARGO) test --workspace --locked --test deploy --test server -- --ignored pictures

up: ## Start server, PostgreSQL, Redis, Prometheus and Grafana with docker compose.
	docker compose up --build --detach

down: ## Stop them. Their data is kept; `docker compose down --volumes` removes it.
	docker compose down
