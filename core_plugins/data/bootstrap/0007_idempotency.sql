-- phase: expand
-- up
-- Answers that were given under an idempotency key. One is written with the effect that it tells of, in its transaction: both
-- are there, or neither. Tenant and plugin are taken from the signed context; which key it was, what was asked and what was
-- answered nobody can tell from a row: the first two are keyed fingerprints, the third is encrypted for the tenant.

create table pk.kept_answer (
  tenant_id uuid not null,
  plugin text collate "C" not null,
  id bytea not null check (octet_length(id) = 32),
  request bytea not null check (octet_length(request) = 32),
  answer bytea not null check (octet_length(answer) <= 2097152),
  expires_at timestamptz not null,
  primary key (tenant_id, plugin, id));
alter table pk.kept_answer alter column answer set storage external;  -- what is encrypted does not compress
create index kept_answer_expires on pk.kept_answer using brin (expires_at);
revoke all on pk.kept_answer from public;

-- Claim a key for this transaction: `new` when nobody has used it, and nobody else gets it before this transaction has ended;
-- `done` with the answer; `other` when it was used for another request; `busy` while another transaction holds the claim. It
-- never waits: whoever waited here would hold a connection.
create function pk.claim_key(key bytea, asked bytea, out outcome text, out answer bytea)
  language plpgsql volatile security definer set search_path = pg_catalog
  as $$
declare
  tenant constant uuid := pk.tenant_id();
  mine constant text := current_setting('role');
  is_locked boolean := false;
begin
  loop
    select case when k.request = asked then 'done' else 'other' end, case when k.request = asked then k.answer end
      into outcome, answer from pk.kept_answer k
      where k.tenant_id = tenant and k.plugin = mine and k.id = key and k.expires_at > clock_timestamp();
    if found then return; end if;
    outcome := 'new';
    exit when is_locked;  -- looked again: who held the claim before may have committed in between
    is_locked := pg_try_advisory_xact_lock(('x' || encode(substr(key, 1, 8), 'hex'))::bit(64)::bigint);
    if not is_locked then
      outcome := 'busy';
      return;
    end if;
  end loop;
end $$;

-- Keep an answer with the commit of its effect. Bytes come as text: the call travels with the COMMIT.
create function pk.keep_answer(key text, asked text, answer text, keep_s text) returns void
  language plpgsql volatile security definer set search_path = pg_catalog
  as $$
declare
  tenant constant uuid := pk.tenant_id();
begin
  insert into pk.kept_answer as k (tenant_id, plugin, id, request, answer, expires_at)
    values (tenant, current_setting('role'), decode(key, 'hex'), decode(asked, 'hex'), decode(answer, 'base64'),
      clock_timestamp() + make_interval(secs => keep_s::double precision))
    on conflict on constraint kept_answer_pkey do update
      set request = excluded.request, answer = excluded.answer, expires_at = excluded.expires_at
      where k.expires_at <= clock_timestamp();
  if not found then
    raise exception 'the key was used by another transaction meanwhile' using errcode = '40001';
  end if;
end $$;

-- What only kernel.gateway may do.
create function pk.need_gateway() returns void
  language plpgsql stable security definer set search_path = pg_catalog
  as $$
begin
  if not pk.entered() or current_setting('role') <> 'gateway' then
    raise exception 'kept answers are forgotten by kernel.gateway alone' using errcode = '42501';
  end if;
end $$;
revoke all on function pk.need_gateway() from public;

-- Forget so many answers, of all tenants, whose time is over; how many went.
create function pk.sweep_answers(most integer) returns bigint
  language plpgsql volatile security definer set search_path = pg_catalog set plan_cache_mode = force_custom_plan
  as $$
declare
  moment constant timestamptz := clock_timestamp();
  gone bigint;
begin
  perform pk.need_gateway();
  delete from pk.kept_answer k where k.ctid = any (array(select w.ctid from pk.kept_answer w
    where w.expires_at <= moment limit most for update skip locked));
  get diagnostics gone = row_count;
  return gone;
end $$;

-- Forget so many answers of the transaction's tenant, when it is erased; how many went.
create function pk.erase_answers(most integer) returns bigint
  language plpgsql volatile security definer set search_path = pg_catalog
  as $$
declare
  tenant constant uuid := pk.tenant_id();
  gone bigint;
begin
  perform pk.need_gateway();
  delete from pk.kept_answer k where k.ctid = any (array(select w.ctid from pk.kept_answer w where w.tenant_id = tenant
    limit most for update skip locked));
  get diagnostics gone = row_count;
  return gone;
end $$;

-- down
drop function pk.erase_answers(integer), pk.sweep_answers(integer), pk.need_gateway(),
  pk.keep_answer(text, text, text, text), pk.claim_key(bytea, bytea);
drop table pk.kept_answer;
