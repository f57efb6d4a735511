#!/bin/sh
# Puts the conduit command into $HOME/.conduit/bin:
#
#   curl https://run.conduit.io/install | sh
#
# CONDUIT_VERSION says which release, CONDUIT_RELEASE_URL where it is: conduit-VERSION-SYSTEM-MACHINE.tar.gz, with the program `conduit`
# in it, and the same name with .sha256 behind it, as sha256sum writes it.
set -eu

# All of it is in a function: half a script, of a download that broke off, does nothing.
main() {
    version="${CONDUIT_VERSION:-v0.1.0}"
    url="${CONDUIT_RELEASE_URL:-https://run.conduit.io/releases/$version}"
    system="$(uname -s | tr '[:upper:]' '[:lower:]')"
    machine="$(uname -m)"
    case "$system-$machine" in
        linux-x86_64 | linux-aarch64) ;;
        *) fail "there is no release of Conduit for $system on $machine: build it from source" ;;
    esac
    archive="conduit-$version-$system-$machine.tar.gz"
    bin="$HOME/.conduit/bin"

    work="$(mktemp -d)"
    trap 'rm -rf "$work"' EXIT
    trap 'exit 1' HUP INT TERM

    echo "Downloading $archive..."
    download "$url/$archive" "$work/$archive"
    download "$url/$archive.sha256" "$work/$archive.sha256"
    verify "$work" "$archive"
    tar -xzf "$work/$archive" -C "$work" conduit 2>/dev/null || fail "$archive has no program conduit in it: is $url a release?"

    mkdir -p "$bin"
    chmod 755 "$work/conduit"
    # Onto the same file system first: the old one is in place until the new one is, also while it runs.
    cp "$work/conduit" "$bin/conduit.new"
    mv -f "$bin/conduit.new" "$bin/conduit"

    cat <<EOF

Conduit was successfully installed to $bin/conduit.

Copy $bin/conduit into your PATH.  Then run

    conduit install | kubectl apply -f -

to deploy Conduit to Kubernetes.  Once deployed, run

    conduit dashboard

to view the Conduit UI.

EOF
}

download() {
    curl --fail --silent --show-error --location --output "$2" "$1" ||
        fail "cannot download $1: look at CONDUIT_VERSION and CONDUIT_RELEASE_URL"
}

# Whatever else the checksum's file says, the first word is about this archive.
verify() {
    expected="$(cut -d ' ' -f 1 "$1/$2.sha256")"
    actual="$(sha256sum "$1/$2" | cut -d ' ' -f 1)"
    [ "$expected" = "$actual" ] || fail "$2 is not what was released: its SHA-256 is $actual, and should be $expected"
}

fail() {
    echo "error: $1" >&2
    exit 1
}

main
