//! Every system call and every pthread call of the library stands in this module: what is above it
//! is plain Rust over atomics and byte offsets.

pub mod clock;
pub mod file;
pub mod mutex;
pub mod proc;
