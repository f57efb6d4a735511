#!/usr/bin/env bash
# How long a proxy of 1 000 series takes to tell Prometheus all of them, and what that does to the requests that it carries meanwhile.
# RATE (requests per second, default 1000), DURATION (in seconds, default 10), ROUNDS (default 3) and WEB_PORT may be set. Needs curl, jq and nsenter.
source "$(dirname "$0")/mesh.sh"
rate=${RATE:-1000}
duration=${DURATION:-10}
rounds=${ROUNDS:-3}
port=${WEB_PORT:-18480}
# A second: ten times as often as Prometheus does.
often=1/s

conduit local up --demo --detach --web-port "$port" >/dev/null
proxy=$(conduit local status -o json | jq '.processes[] | select(.name == "web-0/proxy") | .pid')
metrics=http://127.0.0.1:4191/metrics
inside() { nsenter --net="/proc/$proxy/ns/net" "$@"; }
series() { inside curl -fsS "$metrics" | grep -vc '^#'; }
inside curl -fsS --retry 30 --retry-connrefused --retry-delay 1 -o /dev/null "$metrics" 2>/dev/null

# Each authority that requests are for has series of its own.
authority=0
until (($(series) >= 1000)); do
    authority=$((authority + 1))
    curl -fsS -o /dev/null -H "Host: web-$authority.example" "http://127.0.0.1:$port/"
    ((authority < 1000)) || { echo "after $authority authorities there are only $(series) series" >&2; exit 1; }
done
bytes=$(inside curl -fsS "$metrics" | wc -c)
echo "a proxy of $(series) series, $bytes bytes:"
# On one connection, as Prometheus does it; the first is its making.
inside curl -fsS -o /dev/null -w '%{time_total}\n' "$metrics?[0-200]" | tail -n +2 | sort -n |
    awk '{ time[NR] = $1 * 1000 } END { printf "  a scrape: p50 %.2f ms, p99 %.2f ms, at most %.2f ms\n", time[int(NR / 2)], time[int(NR * 0.99)], time[NR] }'

requests() { # NAME
    conduit-bench load --name "$1" --url "http://127.0.0.1:$port/" --rate "$rate" --duration "${duration}s" --report "$work/$1.json" >/dev/null
}
for round in $(seq "$rounds"); do
    requests "alone-$round"
    (exec nsenter --net="/proc/$proxy/ns/net" curl -fsS -o /dev/null --rate "$often" "$metrics?[1-100000]") &
    scraper=$!
    requests "scraped-$round"
    kill "$scraper"
    wait "$scraper" 2>/dev/null || true
    echo "$rate requests/s, round $round: alone, and scraped at $often"
    conduit-bench compare "$work/alone-$round.json" "$work/scraped-$round.json"
done
