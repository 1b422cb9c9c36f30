#!lua flags=allow-oom
-- watch_execution: register a client for the end of an execution, or return how it has ended.
-- KEYS  1 the partition's prefix
-- ARGV  1 id  2 the client's reply channel (the part after 'reply:'), '' to look only
-- Returns nil when there is none, {status} when it is live, {status, output, error, cancelled by} when it has ended.
-- #include execution
local P, id, client = KEYS[1], unpack(ARGV)
local exec = P .. 'exec:' .. id
local status, registered, output, error, cancelled_by = unpack(redis.call('HMGET', exec,
  'status', 'notify', 'output', 'error', 'cancelled_by'))
if not status then return false end
if not is_live(status) then return {status, output, error, cancelled_by} end
if client ~= '' then
  local watchers = {}
  for who in string.gmatch(registered or '', '%S+') do
    if who ~= client then watchers[#watchers + 1] = who end
  end
  watchers[#watchers + 1] = client
  -- a client that is pushed out still asks by itself, every ten seconds
  redis.call('HSET', exec, 'notify', table.concat(watchers, ' ', math.max(1, #watchers - 15)))
end
return {status}
