#!lua flags=allow-oom
-- watch: register a client for the end of an execution, or find it finished.
-- KEYS  1 the partition's prefix
-- ARGV  1 id  2 the client's reply channel (the part after 'reply:'), '' to look only
-- Returns nil when there is none, {status} when it goes on, {status, output, error, cancelled by} when it has ended.
local P, exec = KEYS[1], KEYS[1] .. 'exec:' .. ARGV[1]
local e = redis.call('HMGET', exec, 'status', 'notify', 'output', 'error', 'cancelled_by')
if not e[1] then return false end
if e[1] ~= 'queued' and e[1] ~= 'waiting' then return {e[1], e[3], e[4], e[5]} end
if ARGV[2] ~= '' then
  local watchers = {}
  for who in string.gmatch(e[2] or '', '%S+') do
    if who ~= ARGV[2] then watchers[#watchers + 1] = who end
  end
  watchers[#watchers + 1] = ARGV[2]
  -- whoever is pushed out asks again by itself, every ten seconds
  redis.call('HSET', exec, 'notify', table.concat(watchers, ' ', math.max(1, #watchers - 15)))
end
return {e[1]}
