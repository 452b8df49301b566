#!/bin/sh
# Builds the image's programs, static and reproducible, for one platform. The
# Makefile and the Dockerfile both call it, so that both make the same bytes.
#
# usage: hack/image/build.sh OUTPUT_FOLDER [PROGRAM...]
#
# GOOS, GOARCH and VERSION come from the environment. PROGRAM is a folder of
# the module; by default ./cmd/operator and ./cmd/plugin-server.
set -eu

out=$1
shift
[ $# -gt 0 ] || set -- ./cmd/operator ./cmd/plugin-server

mkdir -p "$out"
CGO_ENABLED=0 go build -trimpath -buildvcs=false \
	-ldflags "-s -w -X main.version=${VERSION:-dev}" -o "$out/" "$@"
