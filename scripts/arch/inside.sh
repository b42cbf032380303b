#!/usr/bin/env bash
# Runs the suites that test.sh has laid out in this folder, on the machine that they are meant for.
set -uo pipefail
cd "$(dirname "$0")"

node=${NODE_BINARY:-node}
failed=0
echo "$(uname -m), Linux $(uname -r), pages of $(getconf PAGESIZE) bytes, $(nproc) processors, Node $("$node" --version)"
log=$(mktemp)
# A 32-bit process has room for about ten segments: there each test has a process of its own.
alone=$([ "$(getconf LONG_BIT)" = 64 ] || echo yes)
# None that hangs keeps the others from running.
limit=(timeout --kill-after=10 1800)
# What a test says of the parts that it could not run here is shown below.
run() {
  [ -n "$alone" ] || { "${limit[@]}" "$1" --show-output; return; }
  local one failed=0 passed=0
  for one in $("$1" --list | sed -n 's/: test$//p'); do
    if "${limit[@]}" "$1" --show-output --exact "$one"; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
  done
  echo "test result: all. $passed passed; $failed failed"
  return "$failed"
}
for test in rust/*; do
  begun=$SECONDS
  (cd crates/core && run "../../$test") >"$log" 2>&1 || failed=1
  count=$(sed -n 's/^test result: [A-Za-z]*\. \([0-9]* passed; [0-9]* failed\).*/\1/p' "$log" | tail -n 1)
  printf 'rust %-18s %s  %s s\n' "${test#rust/}" "${count:-ended without a result}" "$((SECONDS - begun))"
  [[ $count == *'; 0 failed' ]] || { failed=1; cat "$log"; }
  grep '^not run' "$log" | sort | uniq -c | awk '{ n = $1; sub(/^ *[0-9]+ /, ""); print "  " $0 (n > 1 ? " (" n " times)" : "") }'
done
mapfile -t wanted < <(grep . wanted)
NODE_BINARY=$node "$node" scripts/test-ts.mjs "${wanted[@]}" || failed=1
exit "$failed"
