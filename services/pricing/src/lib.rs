//! The pricing service: the price of each ticket, by a policy that is data.

pub mod domain;
pub mod policy_file;
