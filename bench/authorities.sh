#!/usr/bin/env bash
# What a proxy keeps of authorities that its clients make up: resident memory and series before, after 5 000 and after as many others.
# COUNT (default 5000) and WEB_PORT may be set. Needs curl, jq and nsenter.
source "$(dirname "$0")/mesh.sh"
count=${COUNT:-5000}
port=${WEB_PORT:-18480}

conduit local up --demo --detach --web-port "$port" >/dev/null
proxy=$(conduit local status -o json | jq '.processes[] | select(.name == "web-0/proxy") | .pid')
inside() { nsenter --net="/proc/$proxy/ns/net" "$@"; }
said() { # WHEN
    local series resident
    series=$(inside curl -fsS --retry 30 --retry-connrefused --retry-delay 1 http://127.0.0.1:4191/metrics 2>/dev/null | grep -vc '^#')
    resident=$(awk '/^VmRSS/ { printf "%.1f", $2 / 1024 }' "/proc/$proxy/status")
    printf '%-28s %6d series, %5s MB resident\n' "$1" "$series" "$resident"
}
ask() { # FROM: as many requests as there are names, on one connection
    for number in $(seq "$1" $(($1 + count - 1))); do
        ((number == $1)) || echo next
        printf 'url = "http://127.0.0.1:%s/"\nheader = "Host: made-up-%s.example"\noutput = /dev/null\nsilent\nfail\n' "$port" "$number"
    done | curl --config -
}

said "at rest"
for round in 0 1 2; do
    ask $((1 + round * count))
    said "after $(((round + 1) * count)) authorities"
done
