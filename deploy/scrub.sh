#!/bin/sh
# Remove what differs from build to build: lists, caches, logs, backups, and the JVM's archive of classes, which Java makes anew.
set -eu
rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/cache/ldconfig/aux-cache /var/log/* /var/lib/dpkg/*-old /tmp/* /var/tmp/*
rm -f /etc/machine-id /etc/passwd- /etc/group- /etc/shadow- /etc/gshadow-
# Java's own store of roots has the time in it, and nothing needs it: the JVM asks the cluster's API server alone, by the cluster's own root.
rm -f /etc/ssl/certs/java/cacerts
rm -f /usr/lib/jvm/*/lib/server/classes*.jsa
# The day on which a password was last changed, of accounts that have none.
sed -i 's/^\([^:]*:[^:]*\):[0-9]*:/\1:0:/' /etc/shadow
