-- phase: expand
-- up
create table totals (
  tenant_id uuid not null default pk.tenant_id(),
  currency text not null,
  deals_won bigint not null,
  amount_minor numeric not null,
  version bigint not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  primary key (tenant_id, currency));
select pk.protect('totals');
-- down
drop table totals;
