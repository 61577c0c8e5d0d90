#!/bin/sh
# Installs what the tests need, pinned, into .deps at the root of the checkout (git ignores it); only kcat comes as a
# system package. A step that is done is not done again. Needs: apt (Debian), Go 1.26 or later, Python 3, a JDK 17.
# `tests/install.sh bench` adds librdkafka's own measuring program.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
deps="$root/.deps"
mkdir -p "$deps/bin" "$deps/done"

fail() {
    echo "tests/install.sh: $*" >&2
    exit 1
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# step NAME FILE… : true if NAME is not yet done for the present contents of the files.
step() {
    name=$1
    shift
    mark="$deps/done/$name-$(cat "$@" 2>/dev/null | cksum | tr ' ' '-')"
    [ -e "$mark" ] && return 1
    echo "installing $name"
    rm -f "$deps/done/$name-"*
    return 0
}

# A registry that does not answer is asked again: an installation is no place to give up at the first lost packet.
again() {
    for wait in 2 5 10; do
        "$@" && return 0
        sleep "$wait"
    done
    "$@"
}

system_packages() {
    missing=
    for pair in kcat:kcat mvn:maven python3:python3-venv java:default-jdk-headless cc:gcc make:make strace:strace openssl:openssl; do
        command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair##*:}"
    done
    if [ -n "$missing" ]; then
        echo "installing system packages:$missing"
        again as_root apt-get update -qq
        # shellcheck disable=SC2086
        again as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
    fi
    command -v go >/dev/null 2>&1 || fail "Go is missing; install Go 1.26 or later (Debian's is too old)"
}

python_client() {
    files="$root/tests/clients/python/requirements.txt"
    step python "$files" || return 0
    python3 -m venv "$deps/python"
    again "$deps/python/bin/pip" install -q -r "$files"
    touch "$mark"
}

java_client() {
    pom="$root/tests/clients/java/pom.xml"
    src="$root/tests/clients/java/Roundtrip.java"
    step java "$pom" "$src" || return 0
    rm -rf "$deps/java"
    again mvn -q -B -f "$pom" org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
        -DoutputDirectory="$deps/java/jars"
    javac -cp "$deps/java/jars/*" -d "$deps/java/classes" "$src"
    touch "$mark"
}

go_client() {
    dir="$root/tests/clients/go"
    step go "$dir/go.mod" "$dir/go.sum" "$dir"/*.go || return 0
    (cd "$dir" && again go build -trimpath -o "$deps/bin/quorate-go-client" .)
    touch "$mark"
}

etcd_current() {
    step etcd "$root"/tests/etcd/go.mod "$root"/tests/etcd/go.sum "$root"/tests/etcd/*.go || return 0
    (cd "$root/tests/etcd" && again go build -trimpath -o "$deps/bin/etcd" .)
    touch "$mark"
}

# Debian's 3.4 is the oldest etcd that works. Unpacked, not installed: installing would start a service.
etcd_floor() {
    step etcd-floor /dev/null || return 0
    mkdir -p "$deps/etcd-floor/debs"
    (cd "$deps/etcd-floor/debs" && { again apt-get download etcd-server etcd-client ||
        { again as_root apt-get update -qq && again apt-get download etcd-server etcd-client; }; })
    for deb in "$deps"/etcd-floor/debs/*.deb; do
        dpkg -x "$deb" "$deps/etcd-floor"
    done
    touch "$mark"
}

# librdkafka's measuring program, out of the sources that a crate carries.
rdkafka_performance() {
    manifest="$root/tests/clients/rdkafka/Cargo.toml"
    step rdkafka "$manifest" || return 0
    again cargo fetch -q --locked --manifest-path "$manifest"
    sources=$(ls -d "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/rdkafka-sys-4.10.0*/librdkafka | head -n 1)
    rm -rf "$deps/librdkafka"
    cp -r "$sources" "$deps/librdkafka"
    (cd "$deps/librdkafka" && {
        ./configure --disable-ssl --disable-gssapi --disable-zstd --disable-curl
        make -C src librdkafka.a
        make -C examples rdkafka_performance
    } >"$deps/rdkafka.log" 2>&1) || fail "building rdkafka_performance failed, see $deps/rdkafka.log"
    cp "$deps/librdkafka/examples/rdkafka_performance" "$deps/bin/"
    touch "$mark"
}

system_packages
python_client
java_client
go_client
etcd_current
etcd_floor
if [ "${1:-}" = bench ]; then
    rdkafka_performance
fi
