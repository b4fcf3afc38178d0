-- phase: expand
-- up
-- What operators have set breakers of services to; by default there is nothing. Kept answers are written by every plugin's
-- transactions, so they are in the kernel's own schema (pk.kept_answer).
create table breaker_modes (
  service text collate "C" primary key check (octet_length(service) between 1 and 200),
  mode text not null check (mode in ('normal', 'forced_open', 'observe_only', 'disabled')),
  changed_at timestamptz not null default now());
comment on table breaker_modes is 'no tenant: what operators have set breakers of services to';

-- Set the breaker of a service, of at most 1000; `usual` takes the setting away.
create function set_breaker_mode(of_service text, new_mode text) returns void
  language plpgsql volatile security definer set search_path = gateway, pg_catalog
  as $$
begin
  if not pk.entered() then return; end if;
  if new_mode = 'usual' then
    delete from breaker_modes m where m.service = of_service;
  elsif (select count(*) from breaker_modes m where m.service <> of_service) >= 1000 then
    raise exception 'at most 1000 breakers are set' using errcode = '54000';
  else
    insert into breaker_modes (service, mode) values (of_service, new_mode)
      on conflict (service) do update set mode = new_mode, changed_at = now();
  end if;
end $$;

create function list_breaker_modes() returns table (service text, mode text)
  language plpgsql stable security definer set search_path = gateway, pg_catalog
  as $$
begin
  if not pk.entered() then return; end if;
  return query select m.service, m.mode from breaker_modes m order by m.service;
end $$;
-- down
drop function list_breaker_modes(), set_breaker_mode(text, text);
drop table breaker_modes;
