#!/usr/bin/env bash
# Conduit in Kubernetes: a real API server with its controllers, many pods and services, and the replicas of a control plane beside them;
# arguments are those of `conduit-bench kubernetes`, e.g. --pods 1000 --services 100. Needs Go for the cluster (tests/kubernetes), a network
# namespace of its own, and some 3 GB of memory.
source "$(dirname "$0")/programs.sh"

PATH=$PATH:/usr/local/go/bin:/usr/sbin tests/kubernetes/build
cluster=${CARGO_TARGET_DIR:-target}/kubernetes

namespace=(unshare --net)
((EUID == 0)) || namespace+=(--map-root-user)
# Pods have addresses of these, and controllers listen at theirs.
"${namespace[@]}" sh -c 'ip address add 10.244.0.1/16 dev lo && ip link set lo up && exec "$@"' sh \
    "$CONDUIT_BIN/conduit-bench" kubernetes --cluster "$cluster" "$@"
