//! What the tests of eTicket as a whole share.

pub mod source;
