#!/bin/sh
# Build a server or a tool of the tests with the Go toolchain of this machine, once, and print where it is:
# `go.sh minio|versitygw|grpcurl|promtool`.
#
# The versions are pinned, and Go checks their content against the module's checksum. It is kept in the user's cache folder
# ($XDG_CACHE_HOME/platform-kernel, else ~/.cache/platform-kernel): a build takes some minutes. Exit 3 when there is no Go.
set -eu
tags=
case "$1" in
  minio) module=github.com/minio/minio package= version=v0.0.0-20260212201848-7aac2a2c5b7c ;;
  versitygw) module=github.com/versity/versitygw package=cmd/versitygw version=v1.8.0 ;;
  grpcurl) module=github.com/fullstorydev/grpcurl package=cmd/grpcurl version=v1.9.4 ;;
  promtool) module=github.com/prometheus/prometheus package=cmd/promtool version=v0.313.5 tags=remove_all_sd ;;
  *) echo "$1 is none of minio, versitygw, grpcurl, promtool" >&2; exit 2 ;;
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
  # From a module of its own that requires it: `go install` refuses a module with replace directives (promtool's).
  (cd "$place" && export CGO_ENABLED=0 GOFLAGS=-buildvcs=false GOTOOLCHAIN=local &&
    go mod init build >/dev/null 2>&1 && go mod edit -require "$module@$version" &&
    nice go build -mod=mod -trimpath -tags "$tags" -ldflags '-s -w' -o "$1" "$module${package:+/$package}" >&2)
  mv "$place/$1" "$program"
fi
echo "$program"
