-- phase: expand
-- up
-- Which tenants there are, as hooks told: those that a job of every tenant is for.
create table tenants (
  tenant_id uuid primary key,
  active boolean not null,
  version bigint not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now());
select pk.protect('tenants');

create table schedules (
  plugin text collate "C" not null,
  name text collate "C" not null,
  cron text not null,
  time_zone text not null,
  -- Every moment up to this one was fired, or left out on purpose.
  settled_at timestamptz not null,
  primary key (plugin, name));
comment on table schedules is 'no tenant: how far each schedule has come';

-- One row for each moment of a schedule that was fired, in its tenant or the zero tenant: what keeps two leaders from firing
-- one moment twice.
create table firings (
  tenant_id uuid not null,
  plugin text collate "C" not null,
  name text collate "C" not null,
  moment timestamptz not null,
  -- Null when the queue was full.
  job_id uuid,
  version bigint not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  primary key (tenant_id, plugin, name, moment));
create index firings_moment on firings (plugin, name, moment);
select pk.protect('firings');

-- A schedule begins now, goes on where it was, or begins anew when it is another by now; since when it has to be settled.
create function join_schedule(of_plugin text, of_name text, fields text, zone text, at timestamptz) returns timestamptz
  language plpgsql volatile security definer set search_path = eventbus, pg_catalog
  as $$
declare
  since timestamptz;
begin
  if not pk.entered() then return null; end if;
  insert into schedules as s (plugin, name, cron, time_zone, settled_at) values (of_plugin, of_name, fields, zone, at)
    on conflict (plugin, name) do update set cron = fields, time_zone = zone,
      settled_at = case when s.cron = fields and s.time_zone = zone then s.settled_at else at end
    returning settled_at into since;
  return since;
end $$;

-- Fire moments of a schedule: put a job for each, in each active tenant or in none, unless that has been done. Everything up
-- to `until` is settled then. `fired` is -1 when the lease is another's by now; `refused` is how many found the queue full.
create function fire(of_plugin text, of_name text, lease text, held bigint, moments timestamptz[], until timestamptz,
    to_queue text, in_each_tenant boolean, at timestamptz, out fired bigint, out refused bigint)
  language plpgsql volatile security definer set search_path = eventbus, pg_catalog
  as $$
declare
  one record;
  job uuid;
begin
  fired := -1;
  refused := 0;
  if not pk.holds(lease, held) then return; end if;
  fired := 0;
  for one in select m.moment, t.tenant from unnest(moments) as m (moment) cross join (
      select tenant_id as tenant from tenants where in_each_tenant and active
      union all select null::uuid where not in_each_tenant) as t order by m.moment, t.tenant loop
    insert into firings (tenant_id, plugin, name, moment)
      values (coalesce(one.tenant, '00000000-0000-0000-0000-000000000000'), of_plugin, of_name, one.moment)
      on conflict do nothing;
    continue when not found;
    select p.id into job from pk.put_job_for(one.tenant, of_plugin, to_queue, gen_random_uuid(),
      json_build_object('schedule', of_name, 'moment', one.moment)::text, at) as p;
    if job is null then
      refused := refused + 1;
    else
      fired := fired + 1;
      update firings f set job_id = job where f.plugin = of_plugin and f.name = of_name and f.moment = one.moment
        and f.tenant_id = coalesce(one.tenant, '00000000-0000-0000-0000-000000000000');
    end if;
  end loop;
  update schedules s set settled_at = until where s.plugin = of_plugin and s.name = of_name and s.settled_at < until;
  -- What is settled is never asked for again; a few days are kept for whoever wonders.
  delete from firings f where f.plugin = of_plugin and f.name = of_name and f.moment < until - interval '7 days'
    and f.moment <> all (moments);
end $$;

-- down
drop function fire(text, text, text, bigint, timestamptz[], timestamptz, text, boolean, timestamptz),
  join_schedule(text, text, text, text, timestamptz);
drop table firings, schedules, tenants;
