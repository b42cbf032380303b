#!/usr/bin/env bash
# Ubuntu refuses ordinary users the user namespaces in which tests take the network away, or mount something
# small. A runner of GitHub's is there for one job, so it allows them; elsewhere this only says what is so.
set -euo pipefail

setting=kernel/apparmor_restrict_unprivileged_userns
if [ -n "${GITHUB_ACTIONS:-}" ] && [ -e "/proc/sys/$setting" ]; then
  sudo sysctl -q "$setting=0"
fi
if unshare --map-root-user --net true; then
  echo 'namespaces: an ordinary user may have them'
else
  echo 'not run, for want of namespaces: what needs them, and the network stays'
fi
