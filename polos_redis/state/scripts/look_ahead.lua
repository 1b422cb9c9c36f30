#!lua flags=no-writes
-- look_ahead: what happens next in a partition of a test's namespace, and what has not happened yet.
-- KEYS  1 the partition's prefix
-- ARGV  1 channels of notifications (msgpack list)
-- Returns {now in ms, skipped ms, when the next timer, errand or notification is due (ms) or '', executions on queues,
-- how many ever were, attempts at errands that have begun, executions whose retention is over}.
-- #include clock
-- #include index
local P, channels = KEYS[1], unpack(ARGV)
local UNTIL <const> = 6 -- of an attempt that has begun, see attempts.lua
local due

local function look(key)
  local _, at = unpack(redis.call('ZRANGE', key, 0, 0, 'WITHSCORES'))
  at = tonumber(at)
  if at and at < math.huge and (not due or at < due) then due = at end
end

look(P .. 'timers')
look(P .. 'errands')
for _, channel in ipairs(cmsgpack.unpack(channels)) do look(P .. 'outbox:' .. channel) end

local queued, added, begun, over = 0, 0, 0, 0
for _, queue in ipairs(redis.call('SMEMBERS', P .. 'queues')) do
  local facts = redis.call('XINFO', 'STREAM', P .. 'queue:' .. queue)
  for i = 1, #facts, 2 do
    if facts[i] == 'length' then queued = queued + facts[i + 1] end
    if facts[i] == 'entries-added' then added = added + facts[i + 1] end
  end
end
for _, packed in ipairs(redis.call('HVALS', P .. 'errand_failures')) do
  local made = cmsgpack.unpack(packed)
  if made[UNTIL] and made[UNTIL] > now then begun = begun + 1 end
end
for _, name in ipairs(redis.call('ZRANGE', P .. 'workflows', 0, -1)) do
  over = over + redis.call('ZCOUNT', index_of(P, 'ended', name), '-inf', now)
end
return {now, tonumber(redis.call('GET', P .. 'skipped') or 0), due and string.format('%.3f', due) or '', queued, added,
  begun, over}
