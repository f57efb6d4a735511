#!/usr/bin/env bash
# How soon a page of the dashboard is painted, and how it keeps up with 1 000 deployments: in a headless Chromium, over the demo.
# ROUNDS (default 5), DEPLOYMENTS (default 1000) and WEB_PORT may be set. Needs Node, npm and Chromium: dashboard/tests/run installs them.
source "$(dirname "$0")/mesh.sh"

[[ -d dashboard/app/node_modules/playwright-core ]] || npm ci --no-fund --no-audit --prefix dashboard/app
conduit local up --demo --detach --web-port "${WEB_PORT:-18480}" >/dev/null
conduit dashboard --show url >"$work/says" &
server=$!
trap 'kill "$server" 2>/dev/null || true; clean_up' EXIT
wait_for 10 "$work/says"
until grep -q /web:http/proxy/ "$work/says"; do sleep 0.2; done
# The demo is counted before it is looked at.
sleep 10
URL=$(grep -o 'http:[^ ]*/web:http/proxy/' "$work/says" | head -1) timeout 300 node bench/dashboard.mjs
