//! Random schedules of commands, deliveries and losses over the real applications and stores of all four services, judged by what
//! the test knows by itself. For `tests/convergence.rs`.

pub mod bus;
pub mod intake;
pub mod run;
pub mod schedule;
pub mod truth;
pub mod world;
