//! Checks of a PostgreSQL server and of the schema of a service.

use std::time::Duration;

use eticket_base::{
    doctor::{Check, Group},
    error::chain,
};
use eticket_store::postgres::{
    OpenError,
    inspect::{self, Durability, Inspection, Rights},
};
use sqlx::{migrate::Migrator, postgres::PgConnectOptions};

const STORE: Group = Group::Store;

/// `url` is shown, so it has no password.
pub(super) async fn check(
    url: &str,
    options: &PgConnectOptions,
    (schema, migrations): (&'static str, &Migrator),
    patience: Duration,
) -> Vec<Check> {
    match inspect::inspect(options, schema, migrations, patience).await {
        Ok(inspection) => judge(schema, &inspection),
        Err(error) => vec![unusable(url, &error)],
    }
}

fn unusable(url: &str, error: &OpenError) -> Check {
    const NAME: &str = "store-connection";
    match error {
        OpenError::NotNow(error) => Check::fail(
            STORE,
            NAME,
            format!("{url} does not respond: {}", chain(error)),
            "start PostgreSQL, open the way to it (firewall, listen_addresses), or set store.url",
        ),
        OpenError::Refused { advice, source } => {
            let cause = source.as_ref().map_or_else(String::new, |source| format!(": {}", chain(source)));
            Check::fail(STORE, NAME, format!("{url} cannot be used{cause}"), advice.clone())
        }
    }
}

fn judge(schema: &str, inspection: &Inspection) -> Vec<Check> {
    let Inspection { version, user, database, .. } = inspection;
    let connected = format!("PostgreSQL responds, database {database}, user {user}");
    let mut checks = vec![Check::ok(STORE, "store-connection", connected)];
    checks.push(match &inspection.incompatibility {
        None => Check::ok(STORE, "store-version", format!("PostgreSQL {version}")),
        Some(problem) => {
            let remedy = "use a server of a supported version, with a database in UTF8, or set store.url";
            Check::fail(STORE, "store-version", problem.clone(), remedy)
        }
    });
    checks.push(rights(schema, inspection));
    checks.push(durability(&inspection.durability));
    // Without rights on the schema, its migrations cannot be read.
    if matches!(inspection.rights, Rights::Enough | Rights::CanCreate) {
        let newer = "this version works with it too, because migrations only add at first";
        checks.push(super::migrations(STORE, inspection.schema, newer));
    }
    checks.push(super::clock("PostgreSQL", inspection.clock_difference));
    checks
}

fn rights(schema: &str, inspection: &Inspection) -> Check {
    const NAME: &str = "store-rights";
    let Inspection { user, database, .. } = inspection;
    if inspection.read_only {
        let detail = "the server is a standby, or transactions are read-only by default";
        let remedy = "set store.url to the primary, and default_transaction_read_only to off";
        return Check::fail(STORE, NAME, detail, remedy);
    }
    let fail = |detail: String, remedy: String| Check::fail(STORE, NAME, detail, remedy);
    match inspection.rights {
        Rights::Enough => Check::ok(STORE, NAME, format!("{user} may use and migrate the schema {schema}")),
        Rights::CanCreate => {
            Check::ok(STORE, NAME, format!("no schema {schema} yet: {user} may create it at the next start"))
        }
        Rights::CannotCreate => fail(
            format!("there is no schema {schema}, and {user} may not create it"),
            format!(
                "GRANT CREATE ON DATABASE \"{database}\" TO \"{user}\", or CREATE SCHEMA {schema} AUTHORIZATION \"{user}\""
            ),
        ),
        Rights::NotOnSchema => fail(
            format!("{user} may not use the schema {schema}, or not create tables in it"),
            format!("GRANT USAGE, CREATE ON SCHEMA {schema} TO \"{user}\""),
        ),
        Rights::NotOnTables => fail(
            format!("{user} may not read and write all tables of the schema {schema}"),
            format!("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO \"{user}\""),
        ),
    }
}

fn durability(Durability { fsync, full_page_writes, synchronous_commit }: &Durability) -> Check {
    const NAME: &str = "store-durability";
    let is =
        format!("fsync = {fsync}, full_page_writes = {full_page_writes}, synchronous_commit = {synchronous_commit}");
    match (fsync.as_str(), full_page_writes.as_str(), synchronous_commit.as_str()) {
        ("off", ..) => Check::fail(
            STORE,
            NAME,
            format!("{is}: a crash of the machine can damage the database"),
            "set fsync = on in postgresql.conf and reload the server",
        ),
        (_, "off", _) => Check::warn(
            STORE,
            NAME,
            format!("{is}: a power failure can leave half-written pages"),
            "set full_page_writes = on, unless the file system writes whole pages, as ZFS does",
        ),
        (.., "off") => Check::warn(
            STORE,
            NAME,
            format!("{is}: eTicket turns it on for its own commits, not for those of other programs"),
            "set synchronous_commit = on for the server, the database and the role",
        ),
        _ => Check::ok(STORE, NAME, is),
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use eticket_base::doctor::Status;
    use eticket_store::inspection::Schema;

    use super::*;

    fn healthy() -> Inspection {
        Inspection {
            version: "16.4".to_owned(),
            incompatibility: None,
            user: "app".to_owned(),
            database: "tickets".to_owned(),
            durability: settings("on", "on", "on"),
            read_only: false,
            rights: Rights::Enough,
            schema: Schema::Current { newest: 103 },
            clock_difference: TimeDelta::zero(),
        }
    }

    fn settings(fsync: &str, full_page_writes: &str, synchronous_commit: &str) -> Durability {
        let [fsync, full_page_writes, synchronous_commit] =
            [fsync, full_page_writes, synchronous_commit].map(str::to_owned);
        Durability { fsync, full_page_writes, synchronous_commit }
    }

    fn found(inspection: &Inspection, name: &str) -> Check {
        judge("ticket", inspection).into_iter().find(|check| check.name == name).expect("the check")
    }

    #[test]
    fn a_server_without_fsync_is_a_failure_and_weaker_settings_are_warnings() {
        for (settings, expected) in [
            (settings("on", "on", "on"), Status::Ok),
            (settings("on", "on", "remote_apply"), Status::Ok),
            (settings("on", "on", "off"), Status::Warn),
            (settings("on", "off", "on"), Status::Warn),
            (settings("off", "on", "on"), Status::Fail),
            (settings("off", "off", "off"), Status::Fail),
        ] {
            let check = durability(&settings);
            assert_eq!(check.status, expected, "{check:?}");
            assert_eq!(check.remedy.is_empty(), expected == Status::Ok, "{check:?}");
        }
    }

    #[test]
    fn missing_rights_name_the_statement_that_grants_them() {
        for (rights, status, remedy) in [
            (Rights::Enough, Status::Ok, ""),
            (Rights::CanCreate, Status::Ok, ""),
            (Rights::CannotCreate, Status::Fail, "GRANT CREATE ON DATABASE \"tickets\" TO \"app\""),
            (Rights::NotOnSchema, Status::Fail, "GRANT USAGE, CREATE ON SCHEMA ticket"),
            (Rights::NotOnTables, Status::Fail, "GRANT SELECT, INSERT, UPDATE, DELETE"),
        ] {
            let check = found(&Inspection { rights, ..healthy() }, "store-rights");
            assert_eq!(check.status, status, "{rights:?}");
            assert!(check.remedy.starts_with(remedy), "{check:?}");
        }
        let standby = found(&Inspection { read_only: true, ..healthy() }, "store-rights");
        assert!(standby.status == Status::Fail && standby.remedy.contains("primary"), "{standby:?}");
    }

    #[test]
    fn an_old_server_is_a_failure() {
        let old = Inspection { incompatibility: Some("it runs PostgreSQL 14.1".to_owned()), ..healthy() };
        assert_eq!(found(&old, "store-version").status, Status::Fail);
        assert!(judge("ticket", &healthy()).iter().all(|check| check.status == Status::Ok));
    }
}
