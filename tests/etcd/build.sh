#!/bin/sh
# Builds the etcd that the tests run into .deps/bin/etcd at the root of the repository. Does nothing when that binary
# is newer than what it is made from. Needs Go; the modules are pinned by go.mod and go.sum.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
bin="$here/../../.deps/bin"
if [ -x "$bin/etcd" ] && [ -z "$(find "$here" -name '*.go' -newer "$bin/etcd" -o -name 'go.*' -newer "$bin/etcd")" ]; then
    exit 0
fi
command -v go >/dev/null || { echo "tests/etcd/build.sh: Go is missing; install it (apt-get install golang) and run this again" >&2; exit 1; }
mkdir -p "$bin"
cd "$here"
CGO_ENABLED=0 go build -trimpath -mod=readonly -o "$bin/etcd.new" .
mv "$bin/etcd.new" "$bin/etcd"
