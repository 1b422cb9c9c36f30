-- In a namespace of a test, `load` puts this before every script, and its functions in the place of TIME, XADD, PEXPIRE
-- and the SET of what is published once. There, the clock is ahead of the server's by the key `skipped`, ms. What
-- expires is listed in `expiring`, by the time at which it does; the server's own TTL is not shorter.

-- skipped_time: as TIME.
local function skipped_time(P)
  local time, skipped = redis.call('TIME'), tonumber(redis.call('GET', P .. 'skipped') or 0)
  local us = time[SECONDS] * 1000000 + time[MICROSECONDS] + skipped * 1000
  return {math.floor(us / 1000000), us % 1000000}
end

local function skipped_now(P)
  local time = skipped_time(P)
  return time[SECONDS] * 1000 + math.floor(time[MICROSECONDS] / 1000)
end

-- skipped_add: as XADD. The server goes on from the last id when the clock is behind it.
local function skipped_add(P, key, id, ...)
  if id == '*' then
    local added = redis.pcall('XADD', key, string.format('%.0f-*', skipped_now(P)), ...)
    if type(added) == 'string' then return added end
  end
  return redis.call('XADD', key, id, ...)
end

-- skipped_expire: as PEXPIRE. With GT it is the test's clock that says which is later.
local function skipped_expire(P, key, ms, mode)
  local at = skipped_now(P) + ms
  if mode == 'GT' then
    if tonumber(redis.call('ZSCORE', P .. 'expiring', key) or 0) >= at then return 0 end
    mode = 'XX'
  end
  local set = mode and redis.call('PEXPIRE', key, ms, mode) or redis.call('PEXPIRE', key, ms)
  if set == 1 then redis.call('ZADD', P .. 'expiring', at, key) end
  return set
end

-- skipped_set: as SET with PX.
local function skipped_set(P, key, value, ms)
  redis.call('SET', key, value)
  skipped_expire(P, key, ms)
end
