#!/usr/bin/env bash
# Installs what this project needs on a Debian machine and is not there yet.
#
#   prerequisites.sh go           Go 1.26, a C compiler for the race detector, mkfs tools for tests
#   prerequisites.sh vm           the above, QEMU and what makes guest images
#   prerequisites.sh lab          the above, and sudo's password, where that asks for one: guests need root
#   prerequisites.sh --print-go   the go command to use; installs nothing
#
# Debian's Go may be older than 1.26: any Go from 1.21 fetches the right
# toolchain by itself (GOTOOLCHAIN=auto), so an older Debian takes it from backports.
set -euo pipefail
export LC_ALL=C # what apt says is read below

say() { printf 'prerequisites: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# as_root runs a command as root, or says how to.
as_root() {
	if [ "$(id -u)" = 0 ]; then
		env DEBIAN_FRONTEND=noninteractive "$@"
	elif command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
		sudo env DEBIAN_FRONTEND=noninteractive "$@"
	else
		die "this needs root or sudo; as root, run: ${*@Q}"
	fi
}

# need_root has sudo ask for its password now: the programs that become root take no sudo that asks.
need_root() {
	if [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; then return; fi
	if [ -t 0 ] && command -v sudo >/dev/null && sudo -v && sudo -n true; then return; fi
	die "guests need root; run this as root, with sudo that asks for no password, or from a terminal where it can ask"
}

go_minor() { "$1" env GOVERSION 2>/dev/null | sed -nE 's/^go1\.([0-9]+).*/\1/p'; }

# find_go prints the newest usable go command.
find_go() {
	local candidate minor
	for candidate in "$(command -v go || true)" /usr/local/go/bin/go $(ls -d /usr/lib/go-1.*/bin/go 2>/dev/null | sort -rV); do
		[ -x "$candidate" ] || continue
		minor=$(cd / && go_minor "$candidate")
		if [ "${minor:-0}" -ge 21 ]; then echo "$candidate"; return; fi
	done
	return 1
}

apt_install() {
	local missing=() package
	for package in "$@"; do
		dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed' || missing+=("$package")
	done
	[ ${#missing[@]} -gt 0 ] || return 0
	command -v apt-get >/dev/null || die "not a Debian system; install the equivalents of: ${missing[*]}"
	say "installing ${missing[*]}"
	as_root sh -c "apt-get -qq update && apt-get -qq -o Dpkg::Use-Pty=0 install -y --no-install-recommends ${missing[*]}" >&2
}

install_go() {
	find_go >/dev/null && return
	command -v apt-get >/dev/null || die "not a Debian system; install Go 1.26 and put it on PATH"
	say "installing Go"
	as_root "$(realpath "$0")" debian-go >&2
	find_go >/dev/null || die "no Go 1.21 or newer found after installation; install Go 1.26 and put it on PATH"
}

# debian_go installs Debian's Go, as root.
debian_go() {
	local codename mirror list=/etc/apt/sources.list.d/datera-csi-backports.list
	local install=(apt-get -qq -o Dpkg::Use-Pty=0 install -y --no-install-recommends)
	codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
	apt-get -qq update
	if apt-cache policy golang-go 2>/dev/null | grep -qE 'Candidate: 2:1\.(2[1-9]|[3-9][0-9])'; then
		"${install[@]}" golang-go
		return
	fi
	mirror=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME)' 'Created-By: Packages' 'Origin: Debian' |
		awk -v c="$codename" '$2 == c && !found++ { print $1 }')
	[ -n "$mirror" ] || die "apt knows no mirror of Debian $codename; install Go 1.26 by hand and put it on PATH"
	say "Debian $codename has no Go 1.21 or newer; adding its backports in $list"
	echo "deb $mirror ${codename}-backports main" >"$list"
	if ! { apt-get -qq update && "${install[@]}" -t "${codename}-backports" golang-go; }; then
		rm -f "$list" # or no apt-get update of this machine would succeed any more
		die "no Go comes from $mirror ${codename}-backports, which was taken out of apt's sources again; install Go 1.26 by hand and put it on PATH"
	fi
}

case "${1:-}" in
--print-go) find_go || echo /usr/bin/go ;; # where Debian will put it
go)
	apt_install git ca-certificates gcc libc6-dev xfsprogs e2fsprogs util-linux
	install_go
	;;
vm)
	"$0" go
	apt_install qemu-system-x86 mmdebstrap uidmap cpio iproute2 kmod e2fsprogs
	;;
debian-go) debian_go ;;
lab)
	[ "$(uname -m)" = x86_64 ] || die "guests and the control plane are of amd64, and so must this machine be"
	"$0" vm
	need_root
	;;
*) die "usage: prerequisites.sh go|vm|lab|--print-go" ;;
esac
