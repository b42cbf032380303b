//! Every order of events around one waiter: its JS thread, its helpers, the pool, the call on its way,
//! and a stranger who takes the lock and the gate. The moves are those of src/phase.rs; what the queue
//! (ts/queue.cts) and the helper do with them stands here once more, a line each. All states that can be
//! reached are visited, and in each one what DESIGN.md calls the invariant must hold.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "../../src/phase.rs"]
mod phase;

mod world;

use std::collections::{HashMap, VecDeque};

use phase::{Ended, Phases, Then};
use world::{Helper, Js, World};

impl World {
    /// What is wrong with this state.
    fn wrong(&self) -> Option<&'static str> {
        let rests = self.phases.rests();
        let serving =
            self.helpers.iter().filter(|h| !matches!(h, Helper::None | Helper::Missed)).count();
        let waits = self.tasks > 0 && !self.owns();
        let served = self.phases.is_armed() && !rests;
        let told = self.posted && self.called && self.phases.clone().take_missed();
        if serving + usize::from(self.pooled) != usize::from(!rests) {
            return Some("a waiter is served by nobody, or twice");
        }
        if self.helpers[2] != Helper::None {
            return Some("a third helper");
        }
        let offers = |helper: &Helper| matches!(helper, Helper::Offers | Helper::OffersEarly);
        if self.phases.is_offering() && !self.helpers.iter().any(offers) {
            return Some("an offer stands that nobody makes");
        }
        if self.posted && !self.called {
            return Some("an offer that nobody will take");
        }
        let busy = matches!(self.js, Js::Blocks { .. } | Js::WaitsForMain { late: false });
        if waits && !busy && !served && !told {
            return Some("tasks wait, and nobody waits for them");
        }
        if self.owns() && self.phases.is_armed() {
            return Some("a helper is sent against its own thread");
        }
        if self.tasks == 0 && self.phases.is_armed() && self.js == Js::Runs {
            return Some("a helper is sent for nobody");
        }
        None
    }
}

#[test]
fn whatever_happens_somebody_waits_for_the_tasks() {
    let mut came_from = HashMap::from([(World::new(), None)]);
    let mut open = VecDeque::from([World::new()]);
    while let Some(world) = open.pop_front() {
        if let Some(wrong) = world.wrong() {
            let mut story = vec![format!("{world:?}")];
            let mut at = world;
            while let Some((what, before)) = came_from[&at] {
                story.push(String::from(what));
                at = before;
            }
            story.reverse();
            panic!("{wrong}, after:\n  {}", story.join("\n  "));
        }
        let mut next = Vec::new();
        world.js(&mut next);
        world.stranger(&mut next);
        world.no_thread(&mut next);
        for i in 0..world.helpers.len() {
            world.helper(i, &mut next);
        }
        for (what, after) in next {
            came_from.entry(after).or_insert_with(|| {
                open.push_back(after);
                Some((what, world))
            });
        }
    }
    assert!(came_from.len() > 1_000, "only {} states", came_from.len());
}

#[test]
fn an_offer_is_missed_until_js_has_tried_or_heard_of_it() {
    let missed = || {
        let mut phases = Phases::new();
        phases.want();
        phases.next(false, false);
        assert!(phases.offer(false));
        assert_eq!(phases.end_offer(false), Ended::Missed);
        phases
    };
    // Another task that joins the queue is no try.
    let mut joined = missed();
    assert_eq!(joined.want(), Then::Push);
    assert!(joined.take_missed() && !joined.take_missed());
    // Nor does it outlive the next offer, whatever becomes of that.
    let mut offered = missed();
    offered.want();
    offered.next(false, false);
    assert!(offered.offer(false));
    offered.stand_down();
    assert!(!offered.take_missed());
    let mut tried = missed();
    tried.arm();
    assert!(!tried.take_missed());
}
