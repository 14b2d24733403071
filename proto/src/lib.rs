//! The contract: messages and stubs generated from `eticket/**/*.proto`, and the names and formats that services share.

pub mod error_text;
pub mod field_text;
pub mod headers;
pub mod ids;
pub mod session;
pub mod subjects;
pub mod time;
pub mod token;

use std::sync::LazyLock;

use prost_reflect::{DescriptorError, DescriptorPool};

/// The encoded `FileDescriptorSet` of the whole contract with its imports and comments. Reflection and routing use it. Decode it once, not
/// for each call.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Returns the descriptors of [`DESCRIPTORS`] with their options. They are decoded once; clones of the pool share them.
///
/// # Errors
/// If the descriptors are inconsistent, which is a bug of the build.
pub fn descriptor_pool() -> Result<DescriptorPool, &'static DescriptorError> {
    static POOL: LazyLock<Result<DescriptorPool, DescriptorError>> =
        LazyLock::new(|| DescriptorPool::decode(DESCRIPTORS));
    POOL.as_ref().cloned()
}

/// The `domain` of every `google.rpc.ErrorInfo`.
pub const ERROR_DOMAIN: &str = "eticket";

/// The documentation of the error reasons; the section of a reason is its name in lower case.
pub const ERROR_DOCUMENTATION: &str = "https://git.example.org/eticket/blob/main/docs/errors.md";

/// The documentation of the checks of `doctor`; the section of a check is its name.
pub const DOCTOR_DOCUMENTATION: &str = "https://git.example.org/eticket/blob/main/docs/doctor.md";

/// The generated code, in the tree of its packages.
#[allow(
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    unreachable_pub,
    missing_docs,
    reason = "generated"
)]
mod generated {
    pub mod eticket {
        pub mod ticket {
            pub mod v1 {
                tonic::include_proto!("eticket.ticket.v1");
            }
        }
        pub mod reservation {
            pub mod v1 {
                tonic::include_proto!("eticket.reservation.v1");
            }
        }
        pub mod pricing {
            pub mod v1 {
                tonic::include_proto!("eticket.pricing.v1");
            }
        }
        pub mod query {
            pub mod v1 {
                tonic::include_proto!("eticket.query.v1");
            }
        }
        pub mod operations {
            pub mod v1 {
                tonic::include_proto!("eticket.operations.v1");
            }
        }
        pub mod authorization {
            pub mod v1 {
                tonic::include_proto!("eticket.authorization.v1");
            }
        }
        pub mod event {
            pub mod v1 {
                tonic::include_proto!("eticket.event.v1");
            }
        }
        pub mod audit {
            pub mod v1 {
                tonic::include_proto!("eticket.audit.v1");
            }
        }
        pub mod error {
            pub mod v1 {
                tonic::include_proto!("eticket.error.v1");
            }
        }
    }
    pub mod grpc {
        pub mod health {
            pub mod v1 {
                tonic::include_proto!("grpc.health.v1");
            }
        }
    }
    pub mod google {
        pub mod r#type {
            tonic::include_proto!("google.r#type");
        }
        pub mod rpc {
            tonic::include_proto!("google.rpc");
        }
    }
}

pub use generated::eticket::{
    audit::v1 as audit, authorization::v1 as authorization, error::v1 as error, event::v1 as event,
    operations::v1 as operations, pricing::v1 as pricing, query::v1 as query, reservation::v1 as reservation,
    ticket::v1 as ticket,
};
pub use generated::google::{rpc, r#type};
pub use generated::grpc::health::v1 as health;

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::DESCRIPTORS;

    #[test]
    fn reflection_has_the_comments() {
        let set = FileDescriptorSet::decode(DESCRIPTORS).expect("descriptors");
        let files = set.file.iter().filter(|file| file.package().starts_with("eticket."));
        for file in files {
            let info = file.source_code_info.as_ref().expect("source info");
            assert!(info.location.iter().any(|location| location.leading_comments().len() > 1), "{}", file.name());
        }
    }
}
