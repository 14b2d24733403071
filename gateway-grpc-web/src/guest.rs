//! A service behind the gateway that is not in the contract.

use crate::routes::Backend;

/// A service of another contract that the gateway serves too, in all protocols.
///
/// The conformance suite of Connect calls a service of its own, whose responses it dictates. It has to take the way of
/// every other call, so a test gives this service to [`crate::Gateway::build_with`]. No configuration leads here. The
/// layers of `eticket-rpc-server` treat its methods as they treat unknown ones: they have no default deadline and no
/// metrics of their own.
#[derive(Debug, Clone, Copy)]
pub struct Guest {
    /// The full name of the service.
    pub service: &'static str,
    /// An encoded `FileDescriptorSet` with the service and all that it imports.
    pub descriptors: &'static [u8],
    /// The upstream that serves it.
    pub backend: Backend,
}
