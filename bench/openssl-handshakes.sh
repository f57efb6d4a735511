#!/usr/bin/env bash
# Handshakes of `openssl s_server` with `openssl s_time`, to stand beside those of `conduit-bench identity handshakes`: TLS 1.3, P-256
# certificates of both sides through one intermediate, a connection each. DURATION in whole seconds (default 5).
set -euo pipefail
export LC_ALL=C
seconds=${DURATION:-5}
seconds=${seconds%s}
port=${PORT:-14433}
directory=$(mktemp -d)
server=
trap '[[ -z $server ]] || kill "$server" 2>/dev/null; rm -rf "$directory"' EXIT
cd "$directory"

key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"; }
# sign NAME ISSUER EXTENSIONS
sign() {
    key "$1"
    openssl req -new -key "$1.key" -subj "/CN=$1" -out "$1.csr"
    openssl x509 -req -in "$1.csr" -CA "$2.pem" -CAkey "$2.key" -CAcreateserial -days 1 -extfile <(printf '%s\n' "$3") \
        -out "$1.pem" 2>/dev/null
}
key root
openssl req -x509 -new -key root.key -subj /CN=root -days 1 -out root.pem
sign intermediate root 'basicConstraints=critical,CA:TRUE'
sign leaf intermediate 'extendedKeyUsage=serverAuth,clientAuth'

openssl s_server -accept "127.0.0.1:$port" -tls1_3 -quiet -cert leaf.pem -key leaf.key -cert_chain intermediate.pem \
    -CAfile root.pem -Verify 3 -verify_return_error </dev/null >/dev/null 2>&1 &
server=$!
for _ in $(seq 50); do
    (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null && break
    sleep 0.1
done

# Ticks of the processor that the server has used.
ticks() { awk '{print $14 + $15}' "/proc/$server/stat"; }
cat leaf.pem intermediate.pem >chain.pem
# Full ones only: s_time takes no ticket of TLS 1.3, and so resumes nothing.
before=$(ticks)
made=$(openssl s_time -connect "127.0.0.1:$port" -tls1_3 -cert chain.pem -key leaf.key -CAfile root.pem -new -time "$seconds" 2>/dev/null |
    sed -n 's/^\([0-9]*\) connections in [0-9.]*s; .*/\1/p' | tail -1)
used=$(($(ticks) - before))
awk -v made="${made:-0}" -v used="$used" -v hz="$(getconf CLK_TCK)" -v seconds="$seconds" 'BEGIN {
    printf "openssl s_server, full: %.0f handshakes per second of its core (%d in %ds)\n", made * hz / (used ? used : 1), made, seconds
}'
echo "$(openssl version | cut -d" " -f1,2): TCP on loopback included, no SPIFFE id looked at, and no post-quantum key exchange unless it is 3.5 or newer"
