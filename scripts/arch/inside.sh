#!/usr/bin/env bash
# Runs the suites that test.sh has laid out in this folder, on the machine that they are meant for.
set -uo pipefail
cd "$(dirname "$0")"

node=${NODE_BINARY:-node}
failed=0
echo "$(uname -m), Linux $(uname -r), pages of $(getconf PAGESIZE) bytes, $(nproc) processors, Node $("$node" --version)"
log=$(mktemp)
for test in rust/*; do
  begun=$SECONDS
  (cd crates/core && "../../$test") >"$log" 2>&1 || failed=1
  count=$(sed -n 's/^test result: [A-Za-z]*\. \([0-9]* passed; [0-9]* failed\).*/\1/p' "$log")
  printf 'rust %-18s %s  %s s\n' "${test#rust/}" "${count:-ended without a result}" "$((SECONDS - begun))"
  [[ $count == *'; 0 failed' ]] || { failed=1; cat "$log"; }
done
mapfile -t wanted < <(grep . wanted)
NODE_BINARY=$node "$node" scripts/test-ts.mjs "${wanted[@]}" || failed=1
exit "$failed"
