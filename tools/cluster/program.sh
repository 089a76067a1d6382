#!/bin/sh
# A driver without a JVM, whose arguments say how it ends as in tools/cluster/simulated_node.py, and a worker of the chart, which
# answers its probes. Executors fail: they have no driver to join.
set -eu
case $1 in
  driver) shift 6 ;;
  worker)
    mkdir /tmp/health
    echo ok >/tmp/health/healthz
    exec httpd -f -p 8080 -h /tmp/health
    ;;
  *) exit 64 ;;
esac
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
    trap 'exit 0' USR1
    trap 'exit 11' USR2
    sleep 86400 &
    wait
    ;;
esac
