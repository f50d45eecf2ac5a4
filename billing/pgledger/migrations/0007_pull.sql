-- How a notice came: webhooks may be missed, and are asked for then; what is due
-- at a later time is put down for it, and counts as received at that time.
alter table mcpsaas.billing_notices
	add column via text not null default 'webhook' check (via in ('webhook', 'pull', 'schedule'));
drop index mcpsaas.billing_notices_received;
create index billing_notices_heard on mcpsaas.billing_notices (received_at) where via = 'webhook';
create index billing_notices_pulled on mcpsaas.billing_notices (created) where via = 'pull';
