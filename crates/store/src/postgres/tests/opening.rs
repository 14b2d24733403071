//! Opening a schema: migrations, privileges, passwords, certificates.

use futures::future::join_all;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::*;

async fn open(options: &PgConnectOptions, migrations: &Migrator) -> Result<Database, OpenError> {
    Database::open(options, SCHEMA, migrations, Arc::new(SystemClock)).await
}

/// Opens until the outcome is final, as a process does at its start: a busy server is slow to accept.
async fn open_finally(url: &str) -> Result<Database, OpenError> {
    let mut outcome = None;
    contract::eventually(async || {
        let opened = open(&options(url).unwrap(), &migrations()).await;
        let is_final = !matches!(opened, Err(OpenError::NotNow(_)));
        outcome = Some(opened);
        is_final
    })
    .await;
    outcome.unwrap()
}

async fn refused(url: &str) -> String {
    match open_finally(url).await {
        Err(OpenError::Refused { advice, .. }) => advice,
        Err(error) => panic!("{url}: {error:?}"),
        Ok(_) => panic!("{url} was opened"),
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn concurrent_first_starts_migrate_once() {
    let server = server();
    let options = url_options(&server);
    let migrations = migrations();
    let opened = join_all((0..4).map(|_| open(&options, &migrations))).await;
    let stores: Vec<_> = opened.into_iter().map(|opened| Store::<Numbers>::new(opened.unwrap())).collect();
    for store in &stores {
        count_all(store, &["x"]).await.unwrap();
    }
    assert_eq!(value(&stores[0], "x").await, 4);
    let applied = server.sql("postgres", "select version from numbers._sqlx_migrations order by version").unwrap();
    assert_eq!(applied.lines().collect::<Vec<_>>(), ["1", "2", "3", "4", "101"]);
}

#[tokio::test]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn a_failed_migration_leaves_no_lock_and_no_partial_table() {
    let server = server();
    let options = url_options(&server);
    let mut broken: Vec<_> = migrations().iter().cloned().collect();
    broken.push(migration(102, "create table half (a int); select 1 / 0"));
    let error = open(&options, &Migrator::with_migrations(broken)).await.map(drop).unwrap_err();
    assert!(matches!(&error, OpenError::Refused { advice, .. } if advice.contains("numbers")), "{error:?}");
    let locks = "select count(*) from pg_locks where locktype = 'advisory'";
    contract::eventually(async || server.sql("postgres", locks).unwrap() == "0").await;
    // The next version of the program has a correct migration.
    let mut right: Vec<_> = migrations().iter().cloned().collect();
    right.push(migration(102, "create table half (a int)"));
    open(&options, &Migrator::with_migrations(right)).await.unwrap();
}

#[tokio::test]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn an_older_program_runs_and_starts_with_a_newer_schema() {
    async fn use_all(store: &Store<Numbers>) {
        let request = Idempotency { request_id: Uuid::new_v4(), hash: [1; 32] };
        let apply_batch = &mut |work: &mut Work<Rows<String, i64>>| {
            let answer = work.run::<RequestIdReused>(Some(request), |work| Ok(response(count(work, "x"))));
            assert!(answer.is_ok());
        };
        store.commit(&keys(&["x"]), &[request.request_id], apply_batch).await.unwrap();
        assert!(store.database.record(request.request_id).await.unwrap().is_some());
        store.database.parked("", 1).await.unwrap();
        drop(store.database.claim_outbox(1).await.unwrap());
    }

    let server = server();
    let store = store(&server).await;
    // Its statements are prepared by now.
    use_all(&store).await;
    let columns =
        "alter table outbox add column more text; alter table record add column more text not null default '';
        alter table parked add column more text; alter table number add column more int not null default 0";
    let mut newer: Vec<_> = migrations().iter().cloned().collect();
    newer.push(migration(199, columns));
    open(&url_options(&server), &Migrator::with_migrations(newer)).await.unwrap();
    use_all(&store).await;
    use_all(&self::store(&server).await).await;
    assert_eq!(waiting(&store.database, "x").await, [1, 2, 3]);
}

#[tokio::test]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn every_connection_has_its_schema_and_limits() {
    let server = server();
    // Independent of the defaults of the database.
    server.sql("postgres", "alter database postgres set default_transaction_isolation = 'serializable'").unwrap();
    let database = database(&server).await;
    const SHOW: &str =
        "select string_agg(current_setting(name), ' ' order by position) from unnest(array['search_path',
        'application_name', 'lock_timeout', 'statement_timeout', 'idle_in_transaction_session_timeout',
        'idle_session_timeout', 'synchronous_commit', 'enable_seqscan']) with ordinality as setting (name, position)";
    let show = async |connection: &mut PgConnection, what: &'static str| {
        sqlx::query_scalar::<_, String>(what).fetch_one(connection).await.unwrap()
    };
    let mut committing = database.writer.lock().await.begin().await.unwrap();
    assert_eq!(show(&mut committing.connection, SHOW).await, "numbers eticket-numbers 1s 2s 5s 5min on off");
    assert_eq!(show(&mut committing.connection, "show transaction_isolation").await, "read committed");
    let mut reading = database.readers.acquire().await.unwrap();
    assert_eq!(show(&mut reading, SHOW).await, "numbers eticket-numbers 1s 2s 5s 0 on off");
    let mut housekeeping = database.housekeepers.acquire().await.unwrap();
    assert_eq!(show(&mut housekeeping, SHOW).await, "numbers eticket-numbers 1s 2s 5s 0 off off");
}

#[tokio::test]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn permanent_errors_say_what_to_do() {
    let server = server();
    server
        .sql("postgres", "create role guest login password 'right'; create role maker login password 'right'")
        .unwrap();
    server.create_database("shop").unwrap();
    server.sql("postgres", "grant create on database shop to maker").unwrap();
    server.ask_for_passwords().unwrap();
    let url = |user: &str, database: &str| server.url(database).replace("postgres@", &format!("{user}@"));
    assert!(refused(&url("guest:wrong", "shop")).await.contains("password"));
    assert!(refused(&url("nobody:right", "shop")).await.contains("password"));
    assert!(refused(&url("guest:right", "nowhere")).await.contains("no such database"));
    let advice = refused(&url("guest:right", "shop")).await;
    assert!(advice.contains("numbers") && advice.contains("grant"), "{advice}");
    open_finally(&url("maker:right", "shop")).await.expect("it may create a schema");
    // The owner of a schema needs no further privilege.
    server.sql("shop", "drop schema numbers cascade; create schema numbers authorization guest").unwrap();
    open_finally(&url("guest:right", "shop")).await.expect("the schema was created for it");
    server.sql("postgres", "create database latin encoding 'LATIN1' template template0").unwrap();
    assert!(refused(&server.url("latin")).await.contains("UTF8"));
}

#[tokio::test]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn temporary_errors_can_be_retried() {
    let mut server = server();
    // Another process migrates for longer than this one waits.
    let holding = "select pg_advisory_lock(hashtextextended('eticket migrations of numbers', 0))";
    let mut other_session = sqlx::ConnectOptions::connect(&url_options(&server)).await.unwrap();
    sqlx::query(holding).execute(&mut other_session).await.unwrap();
    let error = open(&url_options(&server), &migrations()).await.map(drop).unwrap_err();
    assert!(matches!(error, OpenError::NotNow(_)), "{error:?}");
    server.stop().unwrap();
    let error = open(&url_options(&server), &migrations()).await.map(drop).unwrap_err();
    assert!(matches!(error, OpenError::NotNow(_)), "{error:?}");
    server.start_again().unwrap();
    open(&url_options(&server), &migrations()).await.unwrap();
}

#[tokio::test]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn tls_is_as_strict_as_the_url_requires() {
    let mut server = server();
    let url = |server: &Postgres, host: &str, query: &str| {
        format!("{}?{query}", server.url("postgres").replace("127.0.0.1", host))
    };
    let without = refused(&url(&server, "127.0.0.1", "sslmode=require")).await;
    assert!(without.contains("TLS") && without.contains("sslmode"), "{without}");
    let folder = tempfile::tempdir().unwrap();
    let [authority, stranger] = ["authority", "stranger"].map(|name| {
        let mut certificate = CertificateParams::new(Vec::new()).unwrap();
        certificate.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(certificate, KeyPair::generate().unwrap()).unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, issuer.pem()).unwrap();
        (issuer, path.to_str().unwrap().to_owned())
    });
    let ((issuer, authority), (_, stranger)) = (authority, stranger);
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    server.start_with_tls(&certificate.pem(), &key.serialize_pem()).unwrap();
    for (host, query) in [
        ("127.0.0.1", "sslmode=require".to_owned()),
        ("127.0.0.1", format!("sslmode=require&sslrootcert={authority}")),
        ("localhost", format!("sslmode=verify-full&sslrootcert={authority}")),
    ] {
        let url = url(&server, host, &query);
        let store = Store::<Numbers>::new(open(&options(&url).unwrap(), &migrations()).await.expect(&query));
        count_all(&store, &["x"]).await.unwrap();
        let select = sqlx::query("select ssl from pg_stat_ssl where pid = pg_backend_pid()");
        assert!(store.database.fetch_one(select).await.unwrap().try_get::<bool, _>(0).unwrap(), "{query}");
    }
    for (host, query) in [
        ("localhost", "sslmode=verify-full".to_owned()),
        ("localhost", format!("sslmode=verify-full&sslrootcert={stranger}")),
        ("localhost", format!("sslmode=require&sslrootcert={stranger}")),
        ("127.0.0.1", format!("sslmode=verify-full&sslrootcert={authority}")),
        ("localhost", "sslmode=verify-full&sslrootcert=/nowhere.pem".to_owned()),
    ] {
        let advice = refused(&url(&server, host, &query)).await;
        assert!(advice.contains("sslrootcert"), "{query}: {advice}");
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn acknowledged_commits_are_durable_with_any_default() {
    // The default of the column records the setting with which a row was committed. Without the guard, a crash would
    // lose it with the WAL buffer.
    const TABLE: &str = "create table number (name text collate \"C\" primary key, value bigint not null,
        setting text not null default current_setting('synchronous_commit'))";
    let migrations = Migrator::with_migrations(vec![migration(101, TABLE)]);
    let mut server = server();
    let setting = |server: &Postgres, of: &str, value: &str| {
        server.sql("postgres", &format!("alter {of} set synchronous_commit = {value}")).unwrap();
    };
    let committed = async |server: &Postgres, name: &str| {
        let store: Store<Numbers> = Store::new(open(&url_options(server), &migrations).await.unwrap());
        count_all(&store, &[name]).await.unwrap();
        store.database.close().await;
        server.sql("postgres", &format!("select setting from numbers.number where name = '{name}'")).unwrap()
    };
    server.sql("postgres", "alter system set wal_writer_delay = '10s'").unwrap();
    setting(&server, "system", "off");
    server.stop().unwrap();
    server.start_again().unwrap();
    assert_eq!(committed(&server, "by the server").await, "on");
    server.kill().unwrap();
    server.start_again().unwrap();
    let kept = server.sql("postgres", "select value from numbers.number where name = 'by the server'").unwrap();
    assert_eq!(kept, "1", "the acknowledged commit");
    for (of, value, expected) in [
        ("database postgres", "local", "on"),
        ("role postgres", "remote_write", "on"),
        ("role postgres", "remote_apply", "remote_apply"),
    ] {
        setting(&server, of, value);
        assert_eq!(committed(&server, value).await, expected, "{of} {value}");
    }
}
