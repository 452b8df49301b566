#!/bin/sh
# Lays out the image of a plugin server as they are in use: an nginx that begins
# as root, serves as another user and has its plugins baked in. hack/image makes an
# image of it. The same files give the same tree.
#
# usage: hack/nginx/tree.sh NGINX FOLDER NAME:VERSION...
#
# NGINX is the program, installed or in an unpacked package ("go run ./hack/cluster
# which nginx"). The plugins are built by hack/plugins/build.sh.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
nginx=$1
out=$2
shift 2

rm -rf "$out"
html=$out/usr/share/nginx/html
mkdir -p "$out/etc/nginx" "$out/lib" "$out/usr/sbin" "$out/var/log/nginx" "$out/var/lib/nginx" "$out/run" "$out/tmp" "$html/plugins"
chmod 1777 "$out/tmp"

cp -L "$nginx" "$out/usr/sbin/nginx"
# Libraries of an unpacked package stand beside it, the others are the machine's.
# All go where the loader looks last, but for the loader, whose path is in the program.
unpacked=${nginx%/usr/sbin/nginx}
libraries=$(LD_LIBRARY_PATH=$(printf %s: "$unpacked"/usr/lib/*-linux-gnu "$unpacked"/lib/*-linux-gnu) ldd "$nginx")
case $libraries in
*"not found"*) echo "tree.sh: libraries of $nginx are missing: $libraries" >&2 && exit 1 ;;
esac
echo "$libraries" | while read -r name arrow path _; do
	case $name$arrow in
	/*) mkdir -p "$out${name%/*}" && cp -L "$name" "$out$name" ;;
	*"=>") cp -L "$path" "$out/lib/$name" ;;
	esac
done

echo "root:x:0:0:root:/:/sbin/nologin
nginx:x:101:101:nginx:/:/sbin/nologin" >"$out/etc/passwd"
echo "root:x:0:
nginx:x:101:" >"$out/etc/group"
ln -s /dev/stdout "$out/var/log/nginx/access.log"
ln -s /dev/stderr "$out/var/log/nginx/error.log"
cp "$here/nginx.conf" "$out/etc/nginx/nginx.conf"

for plugin in "$@"; do
	name=${plugin%:*}
	version=${plugin#*:}
	file=$("$here/../plugins/build.sh" "$name" "$version")
	folder=$html/plugins/$name/$version
	mkdir -p "$folder"
	cp "$file" "$folder/plugin.wasm"
	cat >"$folder/metadata.txt" <<-METADATA
		name: $name
		version: $version
		size: $(wc -c <"$file")
		md5: $(md5sum "$file" | cut -d ' ' -f 1)
		created: 2024-01-01T00:00:00Z
	METADATA
done
