# What people and CI run. Everything is built for one target (.cargo/config.toml).
TARGET := x86_64-unknown-linux-gnu
BUILT := target/$(TARGET)
PREFIX ?= $(HOME)/.local
CARGO ?= cargo
# Tests stop the kernel at named points; this compiles them in.
TESTING := --workspace --features factory/failpoints
# What people install, measured from outside.
BENCHED := --package factory --package factory-agent --package factory-tests

.PHONY: build install test demo record check bench bench-peers fuzz sim soak soak-engines hostile

build:
	$(CARGO) build

install:
	$(CARGO) build --release
	install -D -m 755 $(BUILT)/release/factory $(DESTDIR)$(PREFIX)/bin/factory
	install -D -m 755 $(BUILT)/release/factory-agent $(DESTDIR)$(PREFIX)/lib/factory/factory-agent

# The build comes first by itself: the end-to-end tests run the programs that it makes.
test:
	sh tests/prepare
	$(CARGO) build $(TESTING) --lib --bins --tests
	$(CARGO) test $(TESTING) --no-fail-fast

demo:
	sh tests/prepare
	$(CARGO) build
	$(BUILT)/debug/factory demo

# The terminal session in docs/, from a real `factory demo`. A test holds it against another one.
record:
	sh tests/prepare
	$(CARGO) build $(TESTING) --lib --bins --tests
	FACTORY_RECORD=$(CURDIR)/docs/demo.cast $(CARGO) test $(TESTING) --test loop -- --exact \
		recording::the_recording_shows_what_the_demo_prints

check:
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(TESTING) --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc $(TESTING) --no-deps
	$(CARGO) test $(TESTING) --test hygiene

# One selection for both commands, so that nothing is compiled twice.
bench:
	sh tests/prepare
	$(CARGO) build --release $(BENCHED) --bins
	$(CARGO) bench $(BENCHED) --bench loop

# The gateway beside another proxy in its place, which pip installs below target/.
bench-peers:
	sh tests/prepare
	$(CARGO) build --release $(BENCHED) --bins
	$(CARGO) bench $(BENCHED) --bench loop -- peers

# What parsers, briefs and doors make of the bytes of others, as in `make test` but CASES
# times each. What it finds is kept in proptest-regressions and played by every later run.
CASES ?= 20000
fuzz:
	PROPTEST_CASES=$(CASES) $(CARGO) test --package factory-core --package factory-gateway \
		--lib --test life --test door -- untrusted

# Thousands of jobs on the real core in virtual time, with all that goes wrong; no Docker.
# Fails where a limit is broken or slots are left empty at a backlog. `SEED=<number> make
# sim` makes the same choices again, with the same JOBS.
JOBS ?= 5000
sim:
	FACTORY_JOBS=$(JOBS) FACTORY_SEED=$(SEED) FACTORY_SOAK_RESULT=$(CURDIR)/target/sim \
		$(CARGO) test --release --package factory-core --test life -- \
		--ignored --exact sim::soak --nocapture
	@cat target/sim

# Kills launcher, kernel, gateway and containers at random on the real engine, and
# prints what was lost and doubled in its last line. `KILLS=50 make soak` takes less
# time; `SEED=<number> make soak` makes the same choices again.
KILLS ?= 1000
soak:
	sh tests/prepare
	$(CARGO) build $(TESTING) --lib --bins --tests
	FACTORY_KILLS=$(KILLS) FACTORY_SEED=$(SEED) FACTORY_SOAK_RESULT=$(CURDIR)/target/soak \
		$(CARGO) test $(TESTING) --test sweep -- --ignored --exact docker::soak --nocapture
	@cat target/soak

# The three real projects of `make test`, each with its real engine, COUNT times in a
# row. The first failure ends it; the last line says how far it came.
COUNT ?= 10
soak-engines:
	sh tests/prepare
	$(CARGO) build $(TESTING) --lib --bins --tests
	FACTORY_ROUNDS=$(COUNT) FACTORY_SOAK_RESULT=$(CURDIR)/target/soak-engines \
		$(CARGO) test $(TESTING) --test loop -- --ignored --exact projects::soak --nocapture
	@cat target/soak-engines

# What a hostile agent tries, in real containers, each with its wall and without it. The last
# line says how many got through; docs/hostile.md is written anew where none did.
# `ATTACKS="push-main use-memory" make hostile` tries some of them and writes nothing.
ATTACKS ?=
hostile:
	sh tests/prepare
	$(CARGO) build $(TESTING) --lib --bins --tests
	FACTORY_ATTACKS="$(ATTACKS)" FACTORY_RECORD=$(CURDIR)/docs/hostile.md \
		FACTORY_SOAK_RESULT=$(CURDIR)/target/hostile $(CARGO) test $(TESTING) --test hostile -- \
		--exact no_attack_gets_through_and_without_its_wall_each_does --nocapture
	@cat target/hostile
