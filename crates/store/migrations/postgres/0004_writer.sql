-- Commits wait behind this migration while it waits for the table, so it gives up soon. The service tries again.
set local lock_timeout = '500ms';
-- The session that wrote a row, whose process sends it. Sessions hold their number as an advisory lock; 0 is nobody's.
-- Replicas of the program before this one write rows without it, and claim rows by subject, whoever wrote them. Only they
-- use the index outbox_by_subject.
alter table outbox add column writer bigint not null default 0;
