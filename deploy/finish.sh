#!/bin/sh
# Make the installed tree reproducible: put our packages on the path, validate byte code by content, set all timestamps to the epoch.
set -eu
role=$1 root=/opt/cleanroom
site=$(echo "$root"/lib/python3.*/site-packages)
echo "$root" >"$site/cleanroom.pth"
rm -rf "$root"/include "$root"/lib64 "$root"/bin/[Aa]ctivate* "$root"/bin/pip*
find "$root" \( -name __pycache__ -o -name direct_url.json -o -name REQUESTED \) -prune -exec rm -rf {} +
find "$root/bin" -type f ! -name 'python*' -delete
if [ "$role" = worker ]; then
  # The build ID for Worker Versioning. It covers the lock, so that a checkout of the same commit has the same ID.
  cp requirements.lock "$root/requirements.lock"
  "$root/bin/python" -P "$root/cleanroom/temporal/build.py" >"$root/build-id"
  printf '#!%s/bin/python -P\nimport sys\n\nfrom starters.cli import main\n\nsys.exit(main())\n' "$root" >"$root/bin/cleanroom"
  chmod 755 "$root/bin/cleanroom"
fi
# Hash-based byte code (PEP 552): the same sources give the same bytes.
"$root/bin/python" -m compileall -q -j 0 --invalidation-mode unchecked-hash "$root" || test "$role" = spark
find "$root" -exec touch --no-dereference --date "@${SOURCE_DATE_EPOCH:-0}" {} +
chmod -R go-w,a+rX "$root"
