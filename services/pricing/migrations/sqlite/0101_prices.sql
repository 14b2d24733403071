-- Prices and the policies that they were computed by. Times are microseconds since 1970, UTC; amounts are in the currency's
-- smallest unit.

create table price (
    ticket_id text primary key,
    -- Null until the ticket's own event has come: what came before it waits.
    start_time integer,
    schedule_revision integer not null,
    -- Of who holds the ticket; null if nobody does.
    grade text,
    reservation_revision integer not null,
    policy_version integer not null,
    revision integer not null,
    currency text,
    base_price integer,
    discounted_price integer,
    -- [[rule_id, description, amount], ...]
    discounts text,
    update_time integer,
    check ((start_time is null) = (discounted_price is null))
) strict, without rowid;

-- For lists and republishing.
create index price_computed on price (ticket_id) where start_time is not null;
-- For a new policy: what nobody holds, by the version that it was computed by.
create index price_to_recompute on price (policy_version) where start_time is not null and grade is null;

-- Every version ever given; the highest is in force.
create table policy (
    version integer primary key,
    body blob not null
) strict;
