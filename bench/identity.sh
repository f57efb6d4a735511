#!/usr/bin/env bash
# What identity costs: certificates, handshakes, and trust roots that follow each other under load. Controllers of its own.
# ROTATIONS (default 1000) and DURATION of each of the others (default 5s) may be set.
set -euo pipefail
export LC_ALL=C
cd "$(dirname "$0")/.."

# The programs to measure; built here unless CONDUIT_BIN says where they are.
if [[ -z ${CONDUIT_BIN:-} ]]; then
    cargo build --workspace --release --bins --locked
    CONDUIT_BIN=$PWD/target/release
fi
bench="$CONDUIT_BIN/conduit-bench identity"
$bench handshakes --duration "${DURATION:-5s}"
$bench issue --duration "${DURATION:-5s}"
$bench rotations --rotations "${ROTATIONS:-1000}"
