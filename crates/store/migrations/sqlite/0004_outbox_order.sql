-- The relay reads the outbox by id only.
drop index outbox_by_subject;
