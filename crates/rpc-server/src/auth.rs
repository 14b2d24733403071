//! The identity of the caller. A server layer puts it into the extensions of each request.
//!
//! With `auth.mode = off` every caller is an admin, and a command acts for the `user_id` in its request.

/// The identity of a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    subject: Option<String>,
    admin: bool,
}

impl Caller {
    /// Returns an admin without a name: every caller, if authentication is off.
    #[must_use]
    pub fn admin() -> Self {
        Self { subject: None, admin: true }
    }

    /// Returns whether the caller has the rights of an admin.
    #[must_use]
    pub fn is_admin(&self) -> bool {
        self.admin
    }

    /// The caller's name, for hashes and comparisons; do not log it. `None` if authentication is off.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.subject.as_deref()
    }
}

impl Default for Caller {
    /// Returns a caller without rights: a request that has not passed the authentication layer may do nothing that
    /// needs a caller.
    fn default() -> Self {
        Self { subject: None, admin: false }
    }
}
