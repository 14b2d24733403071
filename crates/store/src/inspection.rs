//! What `doctor` sees of a store without changing it: the state of its schema.

use sqlx::migrate::Migration;

/// A migration that the store has recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Its version.
    pub version: i64,
    /// The checksum of its text.
    pub checksum: Vec<u8>,
    /// Whether it was completed.
    pub success: bool,
}

/// The schema of a store, compared with the migrations of this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schema {
    /// No migration has been applied.
    New,
    /// All are applied, and no other.
    Current {
        /// The newest version.
        newest: i64,
    },
    /// Some are not applied yet.
    Behind {
        /// The number of migrations that the next start applies.
        pending: usize,
    },
    /// A newer program has applied others.
    Ahead {
        /// The newest version in the store.
        newest: i64,
    },
    /// A migration differs from the one in this program.
    Altered {
        /// Its version.
        version: i64,
    },
    /// A migration was not completed.
    Incomplete {
        /// Its version.
        version: i64,
    },
}

impl Schema {
    /// Compares the migrations that a program has with those that a store has recorded.
    pub fn compare<'a>(known: impl IntoIterator<Item = &'a Migration>, applied: &[Applied]) -> Self {
        if let Some(Applied { version, .. }) = applied.iter().find(|applied| !applied.success) {
            return Self::Incomplete { version: *version };
        }
        let known: Vec<_> = known.into_iter().collect();
        let recorded = |migration: &Migration| applied.iter().find(|applied| applied.version == migration.version);
        let differs = |migration: &&&Migration| {
            recorded(migration).is_some_and(|applied| applied.checksum[..] != migration.checksum[..])
        };
        if let Some(migration) = known.iter().find(differs) {
            return Self::Altered { version: migration.version };
        }
        let newest = applied.iter().map(|applied| applied.version).max();
        let Some(newest) = newest else { return Self::New };
        if applied.iter().any(|applied| known.iter().all(|migration| migration.version != applied.version)) {
            return Self::Ahead { newest };
        }
        match known.iter().filter(|migration| recorded(migration).is_none()).count() {
            0 => Self::Current { newest },
            pending => Self::Behind { pending },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use sqlx::{SqlSafeStr, migrate::MigrationType};

    use super::*;

    fn migration(version: i64, text: &'static str) -> Migration {
        Migration::new(version, Cow::Borrowed("of a test"), MigrationType::Simple, text.into_sql_str(), false)
    }

    fn applied(migration: &Migration) -> Applied {
        Applied { version: migration.version, checksum: migration.checksum.to_vec(), success: true }
    }

    #[test]
    fn a_schema_is_new_behind_current_or_ahead() {
        let known = [migration(1, "select 1"), migration(101, "select 2")];
        let all: Vec<_> = known.iter().map(applied).collect();
        assert_eq!(Schema::compare(&known, &[]), Schema::New);
        assert_eq!(Schema::compare(&known, &all[..1]), Schema::Behind { pending: 1 });
        assert_eq!(Schema::compare(&known, &all), Schema::Current { newest: 101 });
        let newer = [all, vec![applied(&migration(102, "select 3"))]].concat();
        assert_eq!(Schema::compare(&known, &newer), Schema::Ahead { newest: 102 });
    }

    #[test]
    fn a_changed_or_broken_migration_is_seen_before_everything_else() {
        let known = [migration(1, "select 1"), migration(101, "select 2")];
        let changed = [applied(&migration(1, "select 'by hand'"))];
        assert_eq!(Schema::compare(&known, &changed), Schema::Altered { version: 1 });
        let broken = [Applied { success: false, ..applied(&known[0]) }];
        assert_eq!(Schema::compare(&known, &broken), Schema::Incomplete { version: 1 });
    }
}
