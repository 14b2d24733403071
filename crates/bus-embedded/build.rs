//! Builds the crate again when a migration is added: `sqlx::migrate!` embeds the folder, and cargo tracks only files that existed.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
