-- Tickets; the status is derived from the row and the clock. How migrations may change this: see the chassis's first.

create table ticket (
    ticket_id text collate "C" primary key,
    title text not null,
    start_time timestamptz not null,
    end_time timestamptz not null,
    withdrawn boolean not null,
    holder uuid,
    reservation_revision bigint not null,
    announced boolean not null,
    edits bigint not null,
    schedule_revision bigint not null,
    revision bigint not null,
    create_time timestamptz not null,
    update_time timestamptz not null,
    check (end_time > start_time)
);

-- For the sweeper: who is still to be announced, by end.
create index ticket_to_announce on ticket (end_time) where not withdrawn and holder is null and not announced;
-- For lists by status, each in the order of ids.
create index ticket_withdrawn on ticket (ticket_id) where withdrawn;
create index ticket_reserved on ticket (ticket_id) where not withdrawn and holder is not null;
create index ticket_free on ticket (ticket_id, end_time) where not withdrawn and holder is null;
