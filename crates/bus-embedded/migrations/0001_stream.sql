-- The embedded bus: the stream, and how far each durable consumer has got.

create table message (
    sequence integer primary key,
    subject text not null,
    headers text not null,
    body blob not null
) strict;
create index message_by_subject on message (subject, sequence);

create table position (
    name text primary key,
    filters text not null,
    floor integer not null
) strict, without rowid;

-- One row: made with the file, so that a file made anew is known to be another stream.
create table stream (
    id integer primary key check (id = 1),
    identity text not null
) strict;
