#!/bin/sh
# Builds Wasm plugins into the cache and prints their files, one a line. What is
# there already is not built again.
#
# usage: hack/plugins/build.sh NAME VERSION [NAME VERSION]...
set -eu

here=$(cd "$(dirname "$0")" && pwd)
key=$(cd "$here" && { go version; cat go.mod go.sum main.go build.sh; } | sha256sum | cut -c1-12)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/plugin-server-operator/plugins-$key
mkdir -p "$cache"

while [ $# -ge 2 ]; do
	file=$cache/$1-$2.wasm
	if [ ! -f "$file" ]; then
		(cd "$here" && GOOS=wasip1 GOARCH=wasm CGO_ENABLED=0 go build -buildmode=c-shared -trimpath -buildvcs=false \
			-ldflags "-X main.name=$1 -X main.version=$2" -o "$file.$$" .)
		mv "$file.$$" "$file"
	fi
	echo "$file"
	shift 2
done
[ $# -eq 0 ] || { echo "build.sh: plugin $1 has no version" >&2; exit 2; }
