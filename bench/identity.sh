#!/usr/bin/env bash
# What identity costs: certificates, handshakes, and trust roots that follow each other under load. Controllers of its own.
# ROTATIONS (default 1000) and DURATION of each of the others (default 5s) may be set.
source "$(dirname "$0")/programs.sh"

bench="$CONDUIT_BIN/conduit-bench identity"
$bench handshakes --duration "${DURATION:-5s}"
# Beside what everybody has.
DURATION=${DURATION:-5s} bench/openssl-handshakes.sh
$bench issue --duration "${DURATION:-5s}"
$bench rotations --rotations "${ROTATIONS:-1000}"
