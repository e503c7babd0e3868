#!/usr/bin/env bash
# The lab by hand: see --help. The picture is in netns/layout.ts:
#
#   client ──┬────────┬───────┬───────┐      client network 192.0.2.0/24, DVIPA 192.0.2.100 or 2001:db8:1::100
#            d1       t1      t2      t3
#   cf ──────┴────────┴───────┴───────┘      trusted link 198.51.100.0/24
set -euo pipefail

here=$(cd -- "${BASH_SOURCE[0]%/*}" && pwd)
bin=$(dirname -- "$here")/node_modules/.bin
directory=/run/esplex-lab
prefix=esplex

usage() {
  cat <<'END'
Usage: netns/lab.sh up [TARGETS [4|6]] | down | status | shell NODE | exec NODE COMMAND… | client CHILD

  up      builds the lab (1 to 8 targets, default 3; client and DVIPA on IPv4 or IPv6, default 4), starts every daemon
          and the client's strongSwan
  client  negotiates: CHILD is transport or tunnel
  status  what each daemon says
  shell   a shell inside client, d1, t1 …, cf (or net, where the bridges are)
  exec    a command inside one of them
  down    ends everything and removes it

Needs root and a kernel with ESP; files and logs are in /run/esplex-lab. Without such a kernel: scripts/demo --keep.
END
}

fail() {
  echo "netns/lab.sh: $1" >&2
  exit "${2-1}"
}

namespace_of() {
  [[ -e /run/netns/$prefix-$1 ]] || fail "there is no node $1: is the lab up?"
  echo "$prefix-$1"
}

targets_up() {
  [[ -e $directory.targets ]] || fail "the lab is not up"
  cat "$directory.targets"
}

run_lab() { "$bin/node" "$here/lab-cli.ts" "$1" "$directory" "$prefix" "$2" "${3-4}"; }

action=${1-}
[[ $action != --help && $action != -h ]] || { usage; exit 0; }
(($# > 0)) || { usage >&2; exit 2; }
shift
((EUID == 0)) || fail "needs root"
case $action in
  up)
    [[ ${1-3} =~ ^[1-8]$ ]] || fail "a lab has 1 to 8 targets, not '$1'" 2
    [[ ${2-4} =~ ^[46]$ ]] || fail "the IP version is 4 or 6, not '$2'" 2
    [[ ! -e $directory.targets ]] || fail "the lab is already up"
    echo "${1-3}" >"$directory.targets"
    run_lab up "${1-3}" "${2-4}" || { run_lab down "${1-3}"; rm -f "$directory.targets"; exit 1; }
    dvipa=192.0.2.100
    [[ ${2-4} == 4 ]] || dvipa=2001:db8:1::100
    echo "up. Next: netns/lab.sh client transport; netns/lab.sh exec client ping $dvipa"
    ;;
  down)
    run_lab down "$(targets_up)"
    rm -f "$directory.targets"
    ;;
  status)
    targets_up >/dev/null
    for run in "$directory"/run/*; do
      echo "== ${run##*/}"
      "$here/../bin/esplex" status --run "$run"
    done
    ;;
  client)
    [[ ${1-} =~ ^(transport|tunnel)$ ]] || fail "CHILD is transport or tunnel, not '${1-}'" 2
    namespace=$(namespace_of client)
    STRONGSWAN_CONF=$directory/client/strongswan.conf SWANCTL_DIR=$directory/client/swanctl \
      ip netns exec "$namespace" swanctl --initiate --child "$1" --uri "unix://$directory/client/vici"
    ;;
  shell | exec)
    (($# > 0)) || fail "which node? client, d1, t1 …, cf or net" 2
    namespace=$(namespace_of "$1")
    shift
    if [[ $action == shell ]]; then set -- "${SHELL:-bash}"; fi
    (($# > 0)) || fail "which command?" 2
    exec ip netns exec "$namespace" "$@"
    ;;
  *)
    usage >&2
    exit 2
    ;;
esac
