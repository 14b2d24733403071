//! Who calls: put into the extensions of each request before a service sees it.
//!
//! With `auth.mode = off` everyone is an admin, and the user of a command is the `user_id` of its request.

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    subject: Option<String>,
    admin: bool,
}

impl Caller {
    /// An admin without a name: everyone, where authentication is off.
    #[must_use]
    pub fn admin() -> Self {
        Self { subject: None, admin: true }
    }

    /// Whether the caller may do what admins may.
    #[must_use]
    pub fn is_admin(&self) -> bool {
        self.admin
    }

    /// The caller's name, for hashes and comparisons; never for logs. `None` where authentication is off.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.subject.as_deref()
    }
}

impl Default for Caller {
    /// Nobody: a request that no layer has looked at may do nothing that needs a caller.
    fn default() -> Self {
        Self { subject: None, admin: false }
    }
}
