#!/bin/bash
# Build both images with buildah as OCI archives: deploy/build.sh [FOLDER]
#
#   BASE               Debian 12 base image, by digest
#   SOURCE_DATE_EPOCH  timestamp of every file; by default the commit's
#   CLASS_ARCHIVE      yes: the pods' image contains a class data archive, which is not reproducible (docs/kubernetes.md)
#   BUILD_ARGS         further arguments for `buildah build` (a proxy, a volume with roots, --network=host)
#
# Prints the image digests, the build ID of the workers (image.buildId of the chart) and, if dmverity-vhd (github.com/Microsoft/hcsshim) is installed, the member pods.layers of the trust document.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-dist/images}
mkdir -p "$out"
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
for role in worker spark; do
  name=cleanroom/$role:$version
  # shellcheck disable=SC2086 - BUILD_ARGS are several words
  buildah build --format oci --layers --timestamp "$SOURCE_DATE_EPOCH" --build-arg "SOURCE_DATE_EPOCH=$SOURCE_DATE_EPOCH" \
    --build-arg "CLASS_ARCHIVE=${CLASS_ARCHIVE:-no}" ${BASE:+--build-arg "BASE=$BASE"} \
    ${BUILD_ARGS:-} --ignorefile deploy/.containerignore --file deploy/Containerfile --target "$role" --tag "$name" .
  rm -f "$out/$role.oci.tar" "$out/$role.docker.tar"
  buildah push --quiet --digestfile "$out/$role.digest" "$name" "oci-archive:$out/$role.oci.tar:$name"
  echo "$name  $(cat "$out/$role.digest")  $out/$role.oci.tar"
done
echo "build ID of the workers: $(python3 cleanroom/temporal/build.py)"
if command -v dmverity-vhd >/dev/null; then
  buildah push --quiet cleanroom/spark:"$version" "docker-archive:$out/spark.docker.tar:cleanroom/spark:$version"
  layers=$(dmverity-vhd --tarball "$out/spark.docker.tar" roothash --image "cleanroom/spark:$version" | sed -n 's/^Layer .*: \([0-9a-f]\{64\}\)$/"\1"/p' | paste -sd, -)
  echo "layers: [${layers//,/, }]"
  rm -f "$out/spark.docker.tar"
fi
