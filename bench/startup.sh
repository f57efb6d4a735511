#!/usr/bin/env bash
# From the command to a demo that is ready, with everything built. RUNS (default 5) and WEB_PORT may be set.
source "$(dirname "$0")/mesh.sh"
runs=${RUNS:-5}
port=${WEB_PORT:-18480}

for run in $(seq "$runs"); do
    start=$EPOCHREALTIME
    conduit local up --demo --detach --web-port "$port" >/dev/null
    end=$EPOCHREALTIME
    conduit local down --purge >/dev/null
    awk -v run="$run" -v start="$start" -v end="$end" 'BEGIN { printf "run %d: ready after %.2f s\n", run, end - start }'
done
