//! Random kills under load. `../main.rs` is the test, `examples/kills.rs` the long version of it.

mod audit;
mod lost;
pub mod page;
pub mod supervisor;
mod watchdog;
mod worker;
