-- What every store keeps beside its service's own rows, in the schema of the service.
--
-- Migrations are expanded first and contracted later: replicas of the program before this one go on working while the new ones
-- start. So a migration only adds: tables, indexes, columns that are null or have a default. What nobody needs any more is taken
-- away by a later release, when no replica is left that names it.
--
-- Texts that are compared or sorted have the collation "C": the order of the bytes, which the program has too.

create table outbox (
    id bigint generated always as identity primary key,
    subject text collate "C" not null,
    revision bigint not null,
    headers text not null,
    body bytea not null
);
-- For the oldest row of a subject, and for all of them.
create index outbox_by_subject on outbox (subject, id);

create table record (
    request_id uuid primary key,
    hash bytea not null,
    answer bytea not null,
    create_time timestamptz not null
);
create index record_by_create_time on record (create_time);

create table parked (
    event_id text collate "C" primary key,
    subject text not null,
    headers text not null,
    body bytea not null,
    reason text not null,
    attempts integer not null,
    park_time timestamptz not null
);

-- One row: the stream that this store last met.
create table stream (
    id integer primary key check (id = 1),
    identity text not null
);
