-- When the message itself began to be handed to the mail server. Null: of what breaks off now, nothing has arrived.
alter table email add column handed_over_at bigint;
-- What is under way at this moment may have.
update email set handed_over_at = updated_at where state = 'sending';
