.DEFAULT_GOAL := help
.PHONY: help run test check race fuzz bench e2e soak

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## Start the reference server with everything it needs
	@.ci/setup || true
	go run ./examples/server

test: ## Run all tests
	@.ci/setup
	go test -timeout 14m ./...

check: ## Format, vet, staticcheck, govulncheck, rules of the house
	@.ci/check

race: ## Run all tests with the race detector
	@.ci/setup
	go test -race ./...

fuzz: ## Fuzz every fuzz test for FUZZTIME (30s)
	@.ci/fuzz

bench: ## Print the speed of this beside what it is compared with
	@.ci/setup
	@.ci/bench

e2e: ## Hold the server, the Stripe emulator and the quota limiter against clients and servers of others
	@.ci/setup
	@.ci/e2e
	@.ci/e2e-stripe
	@.ci/e2e-redis

soak: ## Run the long form of the tests that have one
	@.ci/setup
	SOAK=1 go test -count=1 -timeout=6h ./...
	@[ -z "$$REDIS_SERVERS" ] || SOAK=1 .ci/e2e-redis
