#!lua flags=allow-oom
-- wait: open a wait for a time or for an event. Idempotent: an existing record is returned as it is.
-- KEYS  1 the partition's prefix
-- ARGV  1 id  2 entry  3 owner  4 known changes  5 step key  6 ms from now, or ''  7 until ms, or ''
--       8 topic, '' for a delay  9 its subscriber: 'w<entry> <id> <step key>' when the topic lives in this partition;
--       'f...' when it has subscribed in another one  10 the race it decides, or ''  11 the races it takes part in, as
--       for join  12.. events that come before it on the workflow's topic
-- Returns {changes, record}; -1 or -2 as write does.
-- #include fence
-- #include clock
-- #include resolve
-- #include subscribe
local P, id, key, topic = KEYS[1], ARGV[1], ARGV[5], ARGV[8]
local n, old, e = fence(P, id, ARGV[2], ARGV[3], ARGV[4], key)
if n < 0 then return n end
claim(P, id, ARGV[3], e, now)
if old then return {n, old} end
if ARGV[12] then redis.call('XADD', P .. 'topic:' .. string.match(id, '^[^.]*'), '*', unpack(ARGV, 12)) end
local due = ARGV[6] ~= '' and now + tonumber(ARGV[6]) or tonumber(ARGV[7]) or 0
local record = {1, 'wait', 'open', now, due, topic, ARGV[9], '', '', '', 0, ARGV[10]}
if not join(P, id, ARGV[11], now) then
  local packed = resolve_one(P, id, key, record, 'closed', now)
  return {tonumber(redis.call('HGET', P .. 'journal:' .. id, '')), packed}
end
local packed
if due > 0 and due <= now then
  packed = resolve(P, id, key, record, topic == '' and 'over' or 'expired', now)
else
  note_wait(P, id, key)
  if due > 0 then redis.call('ZADD', P .. 'timers', due, 'w' .. id .. ' ' .. key) end
  if string.sub(ARGV[9], 1, 1) == 'w' then subscribe(P, topic, ARGV[9]) end
  packed = rewrite(P, id, key, record)
end
return {tonumber(redis.call('HGET', P .. 'journal:' .. id, '')), packed}
