#!/bin/sh
# Build an S3 server of the tests with the Go toolchain of this machine, once, and print where it is: `s3.sh minio|versitygw`.
#
# The versions are pinned, and Go checks their content against the module's checksum. It is kept in the user's cache folder
# ($XDG_CACHE_HOME/platform-kernel, else ~/.cache/platform-kernel): a build takes some minutes. Exit 3 when there is no Go.
set -eu
case "$1" in
  minio) module=github.com/minio/minio version=v0.0.0-20260212201848-7aac2a2c5b7c ;;
  versitygw) module=github.com/versity/versitygw/cmd/versitygw version=v1.8.0 ;;
  *) echo "$1 is none of minio, versitygw" >&2; exit 2 ;;
esac
folder="${XDG_CACHE_HOME:-$HOME/.cache}/platform-kernel/$1-$version"
program="$folder/$1"
if [ ! -x "$program" ]; then
  command -v go >/dev/null || { echo "no Go toolchain: $1 cannot be built" >&2; exit 3; }
  mkdir -p "$folder"
  exec 9>"$folder/lock"
  ! command -v flock >/dev/null || flock 9 # one builds, the others wait for it
  [ ! -x "$program" ] || { echo "$program"; exit; }
  place=$(mktemp -d "$folder/.build.XXXXXX")
  trap 'rm -rf "$place"' EXIT
  (cd "$place" && CGO_ENABLED=0 GOFLAGS=-buildvcs=false GOTOOLCHAIN=local GOBIN="$place" \
    nice go install -trimpath -ldflags '-s -w' "$module@$version" >&2)
  mv "$place/$1" "$program"
fi
echo "$program"
