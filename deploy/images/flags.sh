# How programs of images are compiled. Sourced by `program` and `profile`, which have to do it alike.
# shellcheck shell=bash disable=SC2034

# glibc, not musl: its allocator is the one that proxies were measured to be best with. It looks names up without shared libraries since
# release 2.34; deploy/images/check says so of a program.
target="$(rustc -vV | sed -n 's/^host: //p')"
case "$target" in
    *-linux-gnu) ;;
    *) echo "error: images are built on Linux with glibc, and this is $target" >&2; exit 1 ;;
esac

# flags MORE: cargo's --config with the flags, and with more of them, each in quotation marks. They take the place of those in
# .cargo/config.toml, and --target keeps them away from build scripts.
flags() {
    flags="target.$target.rustflags = ['--cfg', 'tokio_unstable', '-C', 'target-feature=+crt-static'${1:+, $1}]"
}
