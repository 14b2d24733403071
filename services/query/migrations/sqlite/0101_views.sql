-- The view: one row a ticket, and one a reservation. Times are microseconds since 1970, UTC; statuses that the clock may change
-- are derived from the row. A part that is not there yet has revision 0.

create table view (
    ticket_id text primary key,
    sequence integer not null,
    unsettled_since integer,
    update_time integer not null,
    -- The ticket part.
    ticket_revision integer not null,
    schedule_revision integer not null,
    reservation_revision integer not null,
    title text not null,
    start_time integer not null,
    end_time integer not null,
    withdrawn integer not null,
    holder text,
    ticket_update_time integer not null,
    -- The ledger part, and who holds the ticket by it.
    ledger_revision integer not null,
    active text,
    closed integer not null,
    holder_user_id text,
    -- The newest reservation.
    newest_id text,
    newest_user_id text not null,
    newest_grade text not null,
    newest_status integer not null,
    newest_reason text not null,
    newest_revision integer not null,
    newest_reserve_time integer not null,
    newest_update_time integer not null,
    -- The price part. Without one its price is below every other, so that pages have an order.
    price_revision integer not null,
    price_schedule_revision integer not null,
    price_reservation_revision integer not null,
    base_currency text not null,
    base_units integer not null,
    base_nanos integer not null,
    discounted_currency text not null,
    discounted_units integer not null,
    discounted_nanos integer not null,
    discounts text not null,
    price_update_time integer not null
) strict, without rowid;

-- For lists: one index for each first key of an order; only rows with a ticket part are listed.
create index view_by_start on view (start_time, ticket_id) where ticket_revision > 0;
create index view_by_price on view (discounted_units, discounted_nanos, ticket_id) where ticket_revision > 0;
create index view_by_update on view (update_time, ticket_id) where ticket_revision > 0;
-- For lists by who holds the ticket, and by status, in the usual order.
create index view_by_holder on view (holder_user_id, start_time, ticket_id) where holder_user_id is not null;
create index view_withdrawn on view (start_time, ticket_id) where ticket_revision > 0 and withdrawn = 1;
create index view_reserved on view (start_time, ticket_id)
    where ticket_revision > 0 and withdrawn = 0 and holder is not null;
create index view_free on view (start_time, ticket_id, end_time)
    where ticket_revision > 0 and withdrawn = 0 and holder is null;
-- For watchers.
create index view_by_sequence on view (sequence) where ticket_revision > 0;
-- For operators: what is unsettled, by id and by age.
create index view_unsettled on view (ticket_id) where unsettled_since is not null;
create index view_by_unsettled_since on view (unsettled_since) where unsettled_since is not null;

create table reservation (
    reservation_id text primary key,
    ticket_id text not null,
    user_id text not null,
    grade text not null,
    status integer not null,
    reason text not null,
    revision integer not null,
    reserve_time integer not null,
    update_time integer not null
) strict, without rowid;
-- For a user's list, newest first.
create index reservation_by_user on reservation (user_id, reserve_time, reservation_id);

-- One row: the last message that was read, and what it was, by which it is known again.
create table position (
    id integer primary key check (id = 1),
    identity text not null,
    sequence integer not null,
    anchor text not null
) strict;
