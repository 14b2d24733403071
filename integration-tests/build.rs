//! Compiles the protos of Connect's conformance suite, as `proto/build.rs` compiles the contract.

use std::{env, fs, path::PathBuf};

const FILES: [&str; 2] = ["connectrpc/conformance/v1/service.proto", "connectrpc/conformance/v1/server_compat.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=third_party");
    let mut compiler = protox::Compiler::new(["third_party"])?;
    // With source info, because the imports must equal those in the descriptors of the contract.
    compiler.include_imports(true).include_source_info(true).open_files(FILES)?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("conformance.bin"), compiler.encode_file_descriptor_set())?;
    let mut files = compiler.file_descriptor_set();
    for file in &mut files.file {
        file.source_code_info = None;
    }
    let mut prost = tonic_prost_build::Config::new();
    // Responses repeat the requests as `google.protobuf.Any`.
    prost.enable_type_names().type_name_domain([".connectrpc"], "type.googleapis.com");
    tonic_prost_build::configure().build_client(false).build_server(false).compile_fds_with_config(files, prost)?;
    Ok(())
}
