# What all measurements share: the programs, and the place that they are run from. Sourced by them.
# shellcheck shell=bash
set -euo pipefail
export LC_ALL=C
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The programs to measure; built here unless CONDUIT_BIN says where they are.
if [[ -z ${CONDUIT_BIN:-} ]]; then
    cargo build --workspace --release --bins --locked
    CONDUIT_BIN=$PWD/target/release
fi
