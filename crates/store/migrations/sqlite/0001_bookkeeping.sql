-- What every store keeps beside its service's own rows. Times are microseconds since 1970, UTC.

create table outbox (
    id integer primary key autoincrement,
    subject text not null,
    revision integer not null,
    headers text not null,
    body blob not null
) strict;
create index outbox_by_subject on outbox (subject, revision, id);

create table record (
    request_id text primary key,
    hash blob not null,
    answer blob not null,
    create_time integer not null
) strict, without rowid;
create index record_by_create_time on record (create_time);

create table parked (
    event_id text primary key,
    subject text not null,
    headers text not null,
    body blob not null,
    reason text not null,
    attempts integer not null,
    park_time integer not null
) strict, without rowid;

-- One row: the stream that this store last met.
create table stream (
    id integer primary key check (id = 1),
    identity text not null
) strict;
