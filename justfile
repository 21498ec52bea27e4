# The steps of tests/run, one target each, with the minutes that each takes on two cores; `tests/run` needs nothing installed,
# not even just. What a step needs is built before it: 4 minutes for the product, 3 for the simulation and unit tests.

# Every step (see the table that it ends with)
all:
    tests/run

# Formatting (0.1)
format:
    tests/run format

# Lints of every crate and target (3)
clippy:
    tests/run clippy

# Unit tests of every crate, with failpoints and mutants compiled in (1)
units:
    tests/run units

# Promises through HTTP and the sandbox, on SQLite (5)
sqlite:
    tests/run sqlite

# The same on PostgreSQL (6)
postgres:
    tests/run postgres

# The real binary killed 100 times while months pass (2)
kill:
    tests/run kill

# The real binary under load for two minutes (2)
soak:
    tests/run soak

# E-mail through a real mail server, and a month by commands alone (2)
mail:
    tests/run mail

# A charge run with real processes (1)
charge-run:
    tests/run charge-run

# Webhooks signed by Stripe's Python and Node clients (0.3)
signatures:
    tests/run signatures

# stripe-python against the sandbox (0.1)
stripe-python:
    tests/run stripe-python

# The demo, once (0.2)
demo:
    tests/run demo

# 10,000 random histories (7)
histories:
    tests/run histories

# One fault of each kind at each new gate, for four minutes (4)
gates:
    tests/run gates

# The same seed gives the same history (0.2)
twice:
    tests/run twice

# Every mutant, and each has to be found (3)
mutants:
    tests/run mutants

# Each reader of foreign bytes, fuzzed for 20 seconds (2)
fuzz:
    tests/run fuzz

# Licences, bans and sources of every dependency (2)
licences:
    tests/run licences
