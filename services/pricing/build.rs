//! Rebuilds the crate when a migration is added: `sqlx::migrate!` embeds the folder, but cargo tracks only the files
//! that existed at the last build.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
