-- The provider only adds to what is there: see billing.Target.
alter table mcpsaas.billing_targets add additive boolean not null default false;
