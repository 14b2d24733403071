-- The full name of the message that `answer` holds. Rows of earlier versions have none.
alter table record add column response_type text;
