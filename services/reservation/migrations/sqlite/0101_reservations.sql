-- Ledgers and reservations. Times are microseconds since 1970, UTC. Ids of reservations are UUIDv7 as text: they sort by time.

create table ledger (
    ticket_id text primary key,
    revision integer not null,
    active_reservation_id text,
    closed integer not null
) strict, without rowid;
create index ledger_closed on ledger (ticket_id) where closed = 1;

create table reservation (
    reservation_id text primary key,
    ticket_id text not null,
    user_id text not null,
    user_grade text not null,
    status text not null check (status in ('RESERVED', 'CANCELLED', 'REJECTED')),
    revision integer not null,
    reserve_time integer not null,
    update_time integer not null
) strict, without rowid;

-- The second lock behind the ledger's: only a bug can meet it.
create unique index reservation_one_active_per_ticket on reservation (ticket_id) where status = 'RESERVED';
-- For lists by user, ticket, status, each in the order of ids.
create index reservation_by_user on reservation (user_id, reservation_id);
create index reservation_by_ticket on reservation (ticket_id, reservation_id);
create index reservation_by_status on reservation (status, reservation_id);
