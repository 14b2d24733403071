-- Tickets. Times are microseconds since 1970, UTC; the status is derived from the row and the clock.

create table ticket (
    ticket_id text primary key,
    title text not null,
    start_time integer not null,
    end_time integer not null,
    withdrawn integer not null,
    holder text,
    reservation_revision integer not null,
    announced integer not null,
    edits integer not null,
    schedule_revision integer not null,
    revision integer not null,
    create_time integer not null,
    update_time integer not null,
    check (end_time > start_time)
) strict, without rowid;

-- For the sweeper: who is still to be announced, by end.
create index ticket_to_announce on ticket (end_time) where withdrawn = 0 and holder is null and announced = 0;
-- For lists by status, each in the order of ids.
create index ticket_withdrawn on ticket (ticket_id) where withdrawn = 1;
create index ticket_reserved on ticket (ticket_id) where withdrawn = 0 and holder is not null;
create index ticket_free on ticket (ticket_id, end_time) where withdrawn = 0 and holder is null;
