#!/usr/bin/env bash
# What the control plane alone can do: writes, fail-over, restart, fan-out, telemetry. Controllers of its own, on loopback addresses.
# PROXIES (default 10000), ROUNDS of fail-over (default 20) and DURATION of the writes (default 10s) may be set.
source "$(dirname "$0")/programs.sh"

bench="$CONDUIT_BIN/conduit-bench control-plane"
$bench writes --duration "${DURATION:-10s}"
$bench failover --rounds "${ROUNDS:-20}"
$bench restart --endpoints 50000
$bench fanout --proxies 100
$bench fanout --proxies "${PROXIES:-10000}" --changes 10
$bench telemetry
