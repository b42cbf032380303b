#!/usr/bin/env bash
# Brings what the tests of other architectures need to a bare Debian: Node and npm, rustup, a C linker.
set -euo pipefail

export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq -y --no-install-recommends install ca-certificates cpio gcc git libc6-dev nodejs npm procps python3-pip rustup >/dev/null
bash "$(dirname "$0")/rust.sh"
