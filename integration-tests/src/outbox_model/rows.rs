//! Sets of rows.

/// Rows are numbered from 1.
pub(super) type Row = u8;

/// A set of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Rows(u8);

impl Rows {
    pub(super) fn one(row: Row) -> Self {
        Self(1 << row)
    }

    pub(super) fn has(self, row: Row) -> bool {
        self.0 & (1 << row) != 0
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) fn iter(self) -> impl DoubleEndedIterator<Item = Row> {
        (1..8).filter(move |row| self.has(*row))
    }

    pub(super) fn filter(self, wanted: impl Fn(Row) -> bool) -> Self {
        self.iter().filter(|row| wanted(*row)).map(Self::one).collect()
    }

    /// Identifies the set, for a stable order of sets.
    pub(super) fn bits(self) -> u8 {
        self.0
    }
}

impl FromIterator<Self> for Rows {
    fn from_iter<I: IntoIterator<Item = Self>>(sets: I) -> Self {
        sets.into_iter().fold(Self::default(), Self::and)
    }
}
