-- phase: expand
-- up
-- Records: who did what to what. One is written with each operation that changes something, in its own transaction, and one
-- for each that was refused. They are added and read by these functions alone, are never changed, and go when they are too
-- old or when their tenant is erased. Whose record it is, and in which tenant, is taken from the signed context.

create table pk.record (
  tenant_id uuid not null,
  at timestamptz not null default clock_timestamp(),
  id uuid not null,
  plugin text collate "C" not null check (octet_length(plugin) between 1 and 100),
  operation text collate "C" not null check (octet_length(operation) between 1 and 200),
  actor text collate "C" not null check (octet_length(actor) between 1 and 200),
  -- The person behind an API key; empty when the actor is a person, or nobody is behind it.
  on_behalf_of text collate "C" not null check (octet_length(on_behalf_of) <= 200),
  session_id uuid,
  target text collate "C" not null check (octet_length(target) <= 500),
  outcome text collate "C" not null check (outcome in ('done', 'refused')),
  request_id text collate "C" not null check (octet_length(request_id) <= 100),
  trace_id text collate "C" not null check (octet_length(trace_id) <= 32),
  -- Whoever looks at records in a terminal is shown nothing but what is there.
  check (plugin || operation || actor || on_behalf_of || target || request_id || trace_id ~ '^[!-~]*$'),
  -- In the order in which they are read, so that adding one writes to one tree alone.
  primary key (tenant_id, at, id));
create index record_at on pk.record using brin (at);
revoke all on pk.record from public;

-- Keeps records as they were written, from the functions below and from an administrator's mistake alike.
create function pk.keep_records() returns trigger
  language plpgsql security definer set search_path = pg_catalog
  as $$
begin
  if tg_op = 'DELETE' and current_setting('role') = 'audit' and pk.entered() then
    return null;
  end if;
  raise exception 'records are never changed, and deleted by kernel.audit alone' using errcode = '42501';
end $$;
revoke all on function pk.keep_records() from public;
create trigger keep before update or delete or truncate on pk.record for each statement execute function pk.keep_records();

-- What only kernel.audit may do.
create function pk.need_audit() returns void
  language plpgsql stable security definer set search_path = pg_catalog
  as $$
begin
  if not pk.entered() or current_setting('role') <> 'audit' then
    raise exception 'records are kept by kernel.audit alone' using errcode = '42501';
  end if;
end $$;
revoke all on function pk.need_audit() from public;

-- Write down that an operation of this plugin was done, in the transaction of its effect.
create function pk.record(id uuid, operation text, actor text, on_behalf_of text, session_id uuid, target text,
    request_id text, trace_id text) returns void
  language plpgsql volatile security definer set search_path = pg_catalog
  as $$
declare
  tenant constant uuid := pk.tenant_id();
  plugin constant text := current_setting('role');
  is_ours constant boolean := not starts_with(plugin, 'x_');
  area constant text := case when is_ours then plugin else replace(substr(plugin, 3), '_', '.') end;
begin
  if not starts_with(operation, area || '.') then
    raise exception 'the operation % is not one of this plugin''s', operation using errcode = '42501';
  end if;
  insert into pk.record (tenant_id, id, plugin, operation, actor, on_behalf_of, session_id, target, outcome, request_id,
      trace_id)
    values (tenant, id, case when is_ours then 'kernel.' || area else area end, operation, actor, on_behalf_of, session_id,
      target, 'done', request_id, trace_id);
end $$;

-- Likewise what has no transaction of its plugin's: what was refused, and what was done without one.
create function pk.record_for(of_plugin text, outcome text, id uuid, operation text, actor text, on_behalf_of text,
    session_id uuid, target text, request_id text, trace_id text) returns void
  language plpgsql volatile security definer set search_path = pg_catalog
  as $$
declare
  tenant constant uuid := pk.tenant_id();
begin
  perform pk.need_audit();
  insert into pk.record (tenant_id, id, plugin, operation, actor, on_behalf_of, session_id, target, outcome, request_id,
      trace_id)
    values (tenant, id, of_plugin, operation, actor, on_behalf_of, session_id, target, outcome, request_id, trace_id);
end $$;

-- Records of the transaction's tenant, the newest first; what is null does not matter.
create function pk.records(of_actor text, of_operation text, below text, since timestamptz, until timestamptz,
    before timestamptz, before_id uuid, most integer) returns setof pk.record
  language plpgsql stable security definer set search_path = pg_catalog set plan_cache_mode = force_custom_plan
  as $$
declare
  tenant constant uuid := pk.tenant_id();
begin
  perform pk.need_audit();
  return query select r.* from pk.record r where r.tenant_id = tenant
    and (of_actor is null or r.actor = of_actor) and (of_operation is null or r.operation = of_operation)
    and (below is null or starts_with(r.target, below))
    and (since is null or r.at >= since) and (until is null or r.at < until)
    and (before is null or (r.at, r.id) < (before, before_id))
    order by r.at desc, r.id desc limit most;
end $$;

-- Forget so many records, of all tenants, that are older than that; how many went.
create function pk.sweep_records(keep_days integer, most integer) returns bigint
  language plpgsql volatile security definer set search_path = pg_catalog set plan_cache_mode = force_custom_plan
  as $$
declare
  oldest constant timestamptz := clock_timestamp() - make_interval(days => keep_days);
  gone bigint;
begin
  perform pk.need_audit();
  delete from pk.record r where r.ctid = any (array(select w.ctid from pk.record w
    where w.at < oldest limit most for update skip locked));
  get diagnostics gone = row_count;
  return gone;
end $$;

-- Forget so many records of the transaction's tenant, when it is erased; how many went.
create function pk.erase_records(most integer) returns bigint
  language plpgsql volatile security definer set search_path = pg_catalog
  as $$
declare
  tenant constant uuid := pk.tenant_id();
  gone bigint;
begin
  perform pk.need_audit();
  delete from pk.record r where r.ctid = any (array(select w.ctid from pk.record w where w.tenant_id = tenant
    limit most for update skip locked));
  get diagnostics gone = row_count;
  return gone;
end $$;

-- down
drop function pk.records(text, text, text, timestamptz, timestamptz, timestamptz, uuid, integer);
drop table pk.record;
drop function pk.erase_records(integer), pk.sweep_records(integer, integer),
  pk.record_for(text, text, uuid, text, text, text, uuid, text, text, text),
  pk.record(uuid, text, text, text, uuid, text, text, text), pk.need_audit(), pk.keep_records();
