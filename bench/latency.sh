#!/usr/bin/env bash
# What two proxies with mutual TLS add to the latency of HTTP/1.1 requests on kept connections.
# RATE (requests per second, default 1000) and DURATION (in seconds, default 30) may be set.
source "$(dirname "$0")/mesh.sh"
rate=${RATE:-1000}
duration=${DURATION:-30}

sed -e "s|/tmp/conduit-bench/|$work/|" \
    -e "s|\"conduit-bench\"|\"$CONDUIT_BIN/conduit-bench\"|" \
    -e "s|--rate=1000|--rate=$rate|" \
    -e "s|--duration=30s|--duration=${duration}s|" bench/latency.yml >"$work/latency.yml"
conduit local up --detach -f "$work/latency.yml"

# Column 5 is MESHED: a comparison of two meshed pairs would say that proxies cost nothing.
if conduit -n bench get pods -o wide | awk '$2 ~ /direct/ && $5 != "no" { wrong = 1 } END { exit !wrong }'; then
    echo "pods with the annotation conduit.io/inject: disabled have a proxy all the same" >&2
    exit 1
fi

touch "$work/start"
# Connecting, warming up, measuring.
wait_for $((duration + 60)) "$work/direct.json"
wait_for $((duration + 60)) "$work/meshed.json"
echo "HTTP/1.1, 1 KiB, kept connections, $rate requests/s for ${duration}s; two proxies and mutual TLS when meshed:"
conduit-bench compare "$work/direct.json" "$work/meshed.json"
