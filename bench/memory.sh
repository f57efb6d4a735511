#!/usr/bin/env bash
# Resident memory of every kind of process in the demo, at rest and under load.
# RATE (votes per second, default 200), DURATION (in seconds, default 20) and WEB_PORT may be set.
source "$(dirname "$0")/mesh.sh"
rate=${RATE:-200}
duration=${DURATION:-20}
port=${WEB_PORT:-18480}

conduit local up --demo --detach --web-port "$port" >/dev/null
echo "at rest (the bot's two requests a second):"
conduit local status -o json | conduit-bench memory

# One vote is one HTTP request and two gRPC calls, each through two proxies.
conduit-bench load --name votes --url "http://127.0.0.1:$port/api/vote?choice=:doughnut:" \
    --rate "$rate" --duration "${duration}s" --connections 8 --report "$work/votes.json" &
load=$!
# In its last second, when everything that is going to be allocated is.
sleep $((duration + 2))
status=$(conduit local status -o json)
wait "$load"
echo "under load:"
conduit-bench memory <<<"$status"
