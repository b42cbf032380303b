// Breaks a copy of the core in known ways, and shows that a named test fails for each. A mutation that
// survives is a missing test; one that no longer applies has lost its place in the code.
//
//   node scripts/mutations.mjs [part of a name ...]
import { spawnSync } from 'node:child_process'
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

/** name, file, what stands there, what is put in its place, the test file and the test that must fail. */
const mutations = [
  ['no pthread_mutex_consistent', 'sys/mutex.rs', 'match unsafe { libc::pthread_mutex_consistent(self.raw()) } {', 'match 0 {', 'processes', 'a_death_inside_is_told_until_it_is_repaired'],
  ['gate never opened', 'gate.rs', 'if let Some(gate) = self.gate {\n            gate.unlock();\n        }', 'let _ = self.gate;', 'waits', 'a_helpers_turn_keeps_the_gate_and_leaves_main'],
  ['gate kept by who stops waiting', 'gate.rs', 'if let Err(refusal) = self.between() {\n                gate.unlock();', 'if let Err(refusal) = self.between() {', 'waits', 'a_wait_that_is_stopped_leaves_its_gate_open'],
  ['turn never advanced', 'gate.rs', 'slot.turn.compare_exchange(seen, turn, Ordering::AcqRel, Ordering::Relaxed).is_ok()', 'turn == seen', 'waits', 'a_gate_whose_holder_does_not_run_is_passed_over'],
  ['no second look', 'gate.rs', 'if !unmoved {', 'if false {', 'waits', 'a_gate_whose_holder_moves_keeps_its_turn'],
  ['gate waits without slices', 'gate.rs', 'gate.lock_for(waiter.cut(slices.take())?)', 'gate.lock_for(waiter.cut(u64::MAX / 4)?)', 'waits', 'a_gate_whose_holder_does_not_run_is_passed_over'],
  ['main waits without slices', 'gate.rs', 'const MAIN_SLICE_NS: u64 = 100 * NS_PER_MS;', 'const MAIN_SLICE_NS: u64 = 100_000 * NS_PER_MS;', 'waits', 'nobody_sleeps_on_a_lock_that_became_free_without_a_wake_up'],
  ['a gate is slept at for good', 'gate.rs', 'gate.lock_for(waiter.cut(slices.take())?)', 'gate.lock_for(waiter.cut(u64::MAX / 8)?)', 'waits', 'nobody_sleeps_on_a_lock_that_became_free_without_a_wake_up'],
  ['a flock converted', 'open.rs', 'if let Some(segment) = registry.iter().find(|open| (open.dev, open.ino) == here) {', 'if let Some(segment) = registry.iter().find(|open| (open.dev, open.ino) == here) {\n        let _ = flock(&segment.file, true)?;', 'opening', 'opening_again_beside_others_keeps_the_flock'],
  ['no shared flock', 'open.rs', 'if !flock(&file, false)? || !still_there(path, here) {', 'if !still_there(path, here) {', 'opening', 'what_another_world_left_is_adopted_and_kept'],
  ['dirty never written', 'slot.rs', 'slot.dirty.store(mark, Ordering::Release);', '', 'processes', 'a_death_inside_is_told_until_it_is_repaired'],
  ['dirty written before acquiring', 'slot.rs', 'match self.slot.main.try_lock() {', '{ self.slot.dirty.store(DIRTY | self.slot.generation.load(Ordering::Relaxed), Ordering::Release); } match self.slot.main.try_lock() {', 'model', 'it_does_what_the_model_does'],
  ['dirty not cleared', 'slot.rs', 'self.slot.dirty.store(0, Ordering::Release);', '', 'processes', 'a_death_outside_the_section_is_no_alarm'],
  ['dirty cleared without a repair', 'slot.rs', 'if !keep_dirty {', 'if true {', 'processes', 'a_death_inside_is_told_until_it_is_repaired'],
  ['dirty without a generation', 'slot.rs', 'let mark = DIRTY | slot.generation.load(Ordering::Relaxed);', 'let mark = DIRTY;', 'processes', 'a_reallocated_id_starts_clean'],
  ['no fallocate', 'segment.rs', 'file::reserve(&self.file, at, CHUNK_BYTES)', 'Ok::<(), std::io::Error>(())', 'opening', 'a_full_tmpfs_is_no_space_and_no_sigbus'],
  ['header not validated', 'open.rs', 'layout::validate(&bytes, size, platform()).map_err(', 'layout::validate(&layout::new_header(platform(), &own_world()?, 0, 0, 1), FILE_BYTES, platform()).map_err(', 'opening', 'a_header_that_differs_is_refused'],
  ['chunk published before it is initialised', 'segment.rs', 'slot.token.store(self.created_us, Ordering::Relaxed);', 'let (word, bit) = self.chunk_bit(chunk); word.fetch_or(bit, Ordering::Release); if std::env::var_os("ROBUST_LOCK_TEST_DIE").is_some() { std::process::abort() } slot.token.store(self.created_us, Ordering::Relaxed);', 'waits', 'a_committer_that_dies_leaves_an_unpublished_chunk'],
  ['recovery swaps nothing', 'sys/mutex.rs', '.compare_exchange(seen, OWNER_DIED_WAITERS, Ordering::AcqRel, Ordering::Relaxed)', '.compare_exchange(seen, seen, Ordering::AcqRel, Ordering::Relaxed)', 'processes', 'a_lost_owner_is_healed_and_a_live_one_is_not'],
  ['recovery without proof', 'recover.rs', 'proc::does_not_map(tid, segment.dev, segment.ino)', 'true', 'processes', 'a_lost_owner_is_healed_and_a_live_one_is_not'],
  ['held slots handed out', 'manager.rs', 'slot.main.owner() == 0 || recover(self.segment, &slot.main, effort)', 'slot.main.owner() == 0 || recover(self.segment, &slot.main, effort) || true', 'processes', 'a_freed_lock_that_is_held_is_not_handed_out'],
  ['no look after the claim', 'manager.rs', '&& self.keeps(handle, effort)?', '&& { let _ = Self::keeps; true }', 'processes', 'a_lock_that_is_freed_and_held_since_the_first_look_is_not_handed_out'],
  ['a zombie taken for alive', 'sys/proc.rs', 'is_zombie || flags', 'flags', 'faults_lost', 'a_first_thread_that_ends_before_the_others_is_gone_and_they_are_not'],
  ['unreadable maps taken for a proof', 'sys/proc.rs', 'Err(error) => error.raw_os_error() == Some(libc::ESRCH) && has_no_memory(tid),', 'Err(_) => true,', 'faults_lost', 'a_holder_that_cannot_be_looked_at_is_left_alone'],
  ['any /proc believed', 'sys/proc.rs', 'absent && is_our_proc().unwrap_or(false)', 'absent', 'faults_worlds', 'a_foreign_proc_proves_nothing'],
  ['maps never read', 'recover.rs', 'proc::does_not_map(tid, segment.dev, segment.ino)\n}', 'false\n}', 'faults_worlds', 'a_tid_given_again_is_no_owner_unless_it_has_the_segment'],
  ['a lost gate left closed', 'gate.rs', 'recover(lock.segment, gate, Effort::Full);', '', 'faults_lost', 'what_process_mrelease_makes_the_kernel_lose_is_healed'],
  ['a lost admin mutex left locked', 'segment.rs', 'recover::recover(self, admin, Effort::Full);', 'let _ = (recover::recover, Effort::Full);', 'faults_lost', 'what_process_mrelease_makes_the_kernel_lose_is_healed'],
  ['no recovery by allocations', 'manager.rs', 'slot.main.owner() == 0 || recover(self.segment, &slot.main, effort)', '{ let _ = (recover, effort); slot.main.owner() == 0 }', 'faults_lost', 'what_process_mrelease_makes_the_kernel_lose_is_healed'],
  ['adopted before it is renewed', 'open.rs', 'file.write_all_at(&[0; STAMP_BYTES], STAMPS_AT as u64).map_err(failed)?;', 'file.write_all_at(&layout::stamps(world, 0), STAMPS_AT as u64).map_err(failed)?;', 'faults_steps', 'an_adopter_killed_at_every_step_leaves_the_adoption_to_the_next'],
  ['stale handles free', 'manager.rs', 'if generation.is_some_and(|then| then != now) {', 'if false {', 'model', 'it_does_what_the_model_does'],
  ['no cap on held locks', 'slot.rs', 'if self.held.get() >= MAX_HELD', 'if self.held.get() >= u32::MAX', 'processes', 'a_thread_holds_960_locks_and_its_death_frees_them_all'],
  ['a forked copy goes on', 'sys/mutex.rs', 'FORKED.load(Ordering::Relaxed)', 'false', 'processes', 'a_forked_copy_is_refused_and_its_parent_holds_on'],
  ['hints believed', 'idmap.rs', 'return self.read_all(capacity, usable);\n                    }', 'return Ok(Found::Full { unusable: 0 });\n                    }', 'idmap', 'it_is_a_set'],
]

const root = fileURLToPath(new URL('..', import.meta.url))
const wanted = process.argv.slice(2)
const copy = mkdtempSync(join(tmpdir(), 'robust-lock-mutations-'))
for (const part of ['Cargo.toml', 'Cargo.lock', 'clippy.toml', 'crates']) cpSync(join(root, part), join(copy, part), { recursive: true })

/** Whether the test passes; a test that does not exist is a failure of this script. */
function passes(file, test) {
  const args = ['test', '--quiet', '--locked', '-p', 'robust-lock-core', '--test', file, '--', '--exact', test]
  const { status, stdout, stderr, signal } = spawnSync('cargo', args, { cwd: copy, encoding: 'utf8', timeout: 240_000, env: { ...process.env, CARGO_TARGET_DIR: join(root, 'target', 'mutations') } })
  if (/error(\[E\d+\])?: /.test(stderr) && /could not compile/.test(stderr)) throw new Error(`it does not compile:\n${stderr}`)
  if (status === 0 && !/1 passed/.test(stdout)) throw new Error(`there is no test ${test} in ${file}`)
  return status === 0 && signal === null
}

let bad = 0
try {
  for (const [name, file, from, to, testFile, test] of mutations.filter(([title]) => wanted.length === 0 || wanted.some((part) => title.includes(part)))) {
    const path = join(copy, 'crates/core/src', file)
    const original = readFileSync(path, 'utf8')
    let verdict
    try {
      if (original.split(from).length !== 2) throw new Error('its place in the code is gone, or not the only one')
      writeFileSync(path, original.replace(from, () => to))
      verdict = passes(testFile, test) ? 'SURVIVES' : 'found by'
    } catch (error) {
      verdict = `DOES NOT APPLY (${error.message})`
    }
    writeFileSync(path, original)
    if (verdict !== 'found by') bad++
    console.log(`${name.padEnd(42)} ${verdict} ${testFile}::${test}`)
  }
} finally {
  rmSync(copy, { recursive: true, force: true })
}
console.log(bad === 0 ? 'every mutation is found' : `${bad} mutations are not found`)
process.exitCode = bad === 0 ? 0 : 1
