//! Compiles the contract with protox, so that nobody needs protoc, and keeps the encoded descriptor set for reflection.

use std::{env, fs, path::PathBuf};

const FILES: [&str; 11] = [
    "eticket/ticket/v1/ticket.proto",
    "eticket/reservation/v1/reservation.proto",
    "eticket/pricing/v1/pricing.proto",
    "eticket/query/v1/query.proto",
    "eticket/operations/v1/operations.proto",
    "eticket/event/v1/event.proto",
    "eticket/audit/v1/audit.proto",
    "eticket/error/v1/error.proto",
    "eticket/authorization/v1/authorization.proto",
    // Not used by the others, but tools that show an error's details ask reflection for it.
    "third_party/google/rpc/error_details.proto",
    // The health service of tonic-health does not have `List` yet.
    "third_party/grpc/health/v1/health.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=eticket");
    println!("cargo:rerun-if-changed=third_party");
    let mut compiler = protox::Compiler::new(["third_party", "."])?;
    compiler.include_imports(true).include_source_info(true).open_files(FILES)?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // protox's own encoding keeps custom options, which prost's types would drop. The source info has the comments, which reflection shows.
    fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;
    let mut files = compiler.file_descriptor_set();
    for file in &mut files.file {
        // Comments of protos are not written for rustdoc, which would take their indented lines and brackets for examples and links.
        file.source_code_info = None;
    }
    let mut prost = tonic_prost_build::Config::new();
    // Records of requests name the type of their response.
    prost.enable_type_names();
    tonic_prost_build::configure()
        .extern_path(".google.protobuf.Timestamp", "::prost_types::Timestamp")
        .compile_fds_with_config(files, prost)?;
    Ok(())
}
