//! Random schedules of commands, deliveries and losses over the real applications and stores of all four services. The
//! results are checked against an independent model. Used by `tests/convergence.rs`.

pub mod bus;
pub mod intake;
pub mod run;
pub mod schedule;
pub mod truth;
pub mod world;
