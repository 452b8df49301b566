#!/bin/bash
# Makes sure that there is a Chromium for the test of the page: the one named in
# CHROMIUM, the machine's, or Debian's package, which is installed when root runs this.
set -euo pipefail

fail() { echo "test-page: there is no chromium, and $*: install it (Debian: apt-get install chromium), or name the program in CHROMIUM" >&2; exit 1; }

for program in ${CHROMIUM:-chromium chromium-browser google-chrome}; do
	if command -v "$program" >/dev/null; then exit; fi
done
[ -z "${CHROMIUM:-}" ] || fail "CHROMIUM names $CHROMIUM, which is no program"
[ "$(id -u)" = 0 ] || fail "only root can install it"
command -v apt-get >/dev/null || fail "no apt-get to install it with"

export DEBIAN_FRONTEND=noninteractive
install() { apt-get install --yes --no-install-recommends chromium fonts-dejavu-core >/dev/null; }
echo "test-page: installing Debian's chromium (150 MB, a minute)" >&2
# Old package lists name packages that are gone.
install || { apt-get update >/dev/null && install; } || fail "its package cannot be installed"
