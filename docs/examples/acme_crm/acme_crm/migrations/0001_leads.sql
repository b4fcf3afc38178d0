-- phase: expand
-- up
create table leads (
  tenant_id uuid not null default pk.tenant_id(),
  id uuid not null,
  name text not null,
  company text,
  email text,
  state text not null default 'open' check (state in ('open', 'won', 'lost')),
  assignee_id uuid,
  version bigint not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  primary key (tenant_id, id));
create index leads_created on leads (tenant_id, created_at, id);
create index leads_open on leads (tenant_id) where state = 'open';
select pk.protect('leads');
-- down
drop table leads;
