#!/bin/sh
# Build the S3 server of the tests with the Go toolchain of this machine, once, and print where it is.
#
# The version is pinned, and Go checks its content against the module's checksum. It is kept in the user's cache folder
# ($XDG_CACHE_HOME/platform-kernel, else ~/.cache/platform-kernel): a build takes some minutes. Exit 3 when there is no Go.
set -eu
version=v0.0.0-20260212201848-7aac2a2c5b7c
folder="${XDG_CACHE_HOME:-$HOME/.cache}/platform-kernel/minio-$version"
program="$folder/minio"
if [ ! -x "$program" ]; then
  command -v go >/dev/null || { echo "no Go toolchain: MinIO cannot be built" >&2; exit 3; }
  mkdir -p "$folder"
  exec 9>"$folder/lock"
  ! command -v flock >/dev/null || flock 9 # one builds, the others wait for it
  [ ! -x "$program" ] || { echo "$program"; exit; }
  place=$(mktemp -d "$folder/.build.XXXXXX")
  trap 'rm -rf "$place"' EXIT
  (cd "$place" && CGO_ENABLED=0 GOFLAGS=-buildvcs=false GOTOOLCHAIN=local GOBIN="$place" \
    nice go install -trimpath -ldflags '-s -w' "github.com/minio/minio@$version" >&2)
  mv "$place/minio" "$program"
fi
echo "$program"
