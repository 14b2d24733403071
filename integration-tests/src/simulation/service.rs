//! The four services.

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Service {
    Ticket,
    Reservation,
    Pricing,
    Query,
}

impl Service {
    pub(super) const ALL: [Self; 4] = [Self::Ticket, Self::Reservation, Self::Pricing, Self::Query];
}
