//! The query service: one view of tickets, reservations and prices, built from their events.

pub mod domain;
