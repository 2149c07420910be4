#!/bin/sh
# Builds the Kubo node that the content tests run against and prints the path of its binary.
#
#   tests/build_kubo.sh
#
# Needs Go and a Go module proxy; takes some minutes the first time and nothing afterwards. Kubo's own go.mod replaces
# go-libp2p with a fork, so `go install` refuses it. Here it is built from a module of its own against the released
# go-libp2p, with the QUIC libraries that this release was made for.
set -eu

version=v0.43.1
target="${XDG_CACHE_HOME:-$HOME/.cache}/ipfs-accel/kubo-$version/ipfs"

if [ -x "$target" ]; then
    echo "$target"
    exit 0
fi
command -v go >/dev/null || {
    echo "Go is not installed, so Kubo cannot be built; see https://go.dev/dl" >&2
    exit 1
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export GOFLAGS=-mod=mod
{
    go mod init kubo-for-tests
    go mod edit -replace github.com/quic-go/quic-go=github.com/quic-go/quic-go@v0.60.0
    go mod edit -replace github.com/quic-go/webtransport-go=github.com/quic-go/webtransport-go@v0.11.1
    go get "github.com/ipfs/kubo/cmd/ipfs@$version"
    go build -trimpath -o ipfs github.com/ipfs/kubo/cmd/ipfs
} >build.log 2>&1 || {
    tail -20 build.log >&2
    exit 1
}
mkdir -p "$(dirname "$target")"
# beside the target first, so that the binary appears whole
cp ipfs "$target.$$"
mv "$target.$$" "$target"
echo "$target"
