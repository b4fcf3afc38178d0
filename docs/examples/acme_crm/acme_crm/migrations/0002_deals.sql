-- phase: expand
-- up
create table deals (
  tenant_id uuid not null default pk.tenant_id(),
  id uuid not null,
  lead_id uuid not null,
  title text not null,
  amount_minor bigint not null check (amount_minor >= 0),
  currency text not null,
  state text not null default 'open' check (state in ('open', 'won', 'lost')),
  version bigint not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  primary key (tenant_id, id),
  foreign key (tenant_id, lead_id) references leads (tenant_id, id));
create index deals_created on deals (tenant_id, created_at, id);
create index deals_of_lead on deals (tenant_id, lead_id);
select pk.protect('deals');
-- down
drop table deals;
