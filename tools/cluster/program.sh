#!/bin/sh
# A driver without a JVM. Its arguments say how it ends, as in tools/cluster/simulated_node.py.
set -eu
[ "$1" = driver ] || exit 64
shift 6
echo "driver $*"
case ${1:-} in
  exit)
    [ $# -lt 3 ] || printf '%s' "$3" >/dev/termination-log
    exit "$2"
    ;;
  eat) exec tail /dev/zero ;;
  # As a child, so that this shell, the first process of the container, ends at once when it is terminated.
  *)
    trap 'exit 143' TERM
    sleep 86400 &
    wait
    ;;
esac
