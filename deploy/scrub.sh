#!/bin/sh
# Remove files that differ between builds: package lists, caches, logs, backups, and the JVM's class archive, which Java recreates.
set -eu
rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/cache/ldconfig/aux-cache /var/log/* /var/lib/dpkg/*-old /tmp/* /var/tmp/*
rm -f /etc/machine-id /etc/passwd- /etc/group- /etc/shadow- /etc/gshadow-
# Java's trust store contains a timestamp and is not needed: the JVM connects only to the API server, with the cluster's own root.
rm -f /etc/ssl/certs/java/cacerts
rm -f /usr/lib/jvm/*/lib/server/classes*.jsa
# The date of the last password change; no account has a password.
sed -i 's/^\([^:]*:[^:]*\):[0-9]*:/\1:0:/' /etc/shadow
