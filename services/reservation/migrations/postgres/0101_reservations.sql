-- Ledgers and reservations. Ids of reservations are UUIDv7: they sort by time. How migrations may change this: see the chassis's first.

create table ledger (
    ticket_id text collate "C" primary key,
    revision bigint not null,
    active_reservation_id uuid,
    closed boolean not null
);
create index ledger_closed on ledger (ticket_id) where closed;

create table reservation (
    reservation_id uuid primary key,
    ticket_id text collate "C" not null,
    user_id text collate "C" not null,
    user_grade text not null,
    status text not null check (status in ('RESERVED', 'CANCELLED', 'REJECTED')),
    revision bigint not null,
    reserve_time timestamptz not null,
    update_time timestamptz not null
);

-- The second lock behind the ledger's: only a bug can meet it.
create unique index reservation_one_active_per_ticket on reservation (ticket_id) where status = 'RESERVED';
-- For lists by user, ticket, status, each in the order of ids.
create index reservation_by_user on reservation (user_id, reservation_id);
create index reservation_by_ticket on reservation (ticket_id, reservation_id);
create index reservation_by_status on reservation (status, reservation_id);
