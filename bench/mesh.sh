# What the measurements share: the programs, and a mesh of their own in a directory of its own. Sourced by them.
# shellcheck shell=bash
source "$(dirname "${BASH_SOURCE[0]}")/programs.sh"
export PATH=$CONDUIT_BIN:$PATH

work=$(mktemp -d "${TMPDIR:-/tmp}/conduit-bench-XXXXXX")
export CONDUIT_LOCAL_DIR=$work/mesh
clean_up() {
    conduit local down --purge >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap clean_up EXIT

# wait_for SECONDS FILE: until there is such a file.
wait_for() {
    local deadline=$((SECONDS + $1))
    until [[ -e $2 ]]; do
        if ((SECONDS > deadline)); then
            echo "$2 was not written within $1 seconds; the logs are in $CONDUIT_LOCAL_DIR" >&2
            trap 'conduit local down >/dev/null 2>&1 || true' EXIT
            exit 1
        fi
        sleep 0.2
    done
}
