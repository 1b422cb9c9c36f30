#!lua flags=allow-oom
-- open_wait: open a wait for a time or for an event. Idempotent: an existing record is returned as it is.
-- KEYS  1 the partition's prefix
-- ARGV  1 id  2 entry  3 owner  4 known changes  5 step key  6 ms from now, or ''  7 until ms, or ''
--       8 topic, '' for a delay  9 its subscriber: 'w<entry> <id> <step key>' when the topic lives in this partition;
--       'f...' when it has subscribed in another one  10 the race it decides, or ''
--       11 the races it takes part in, as for join  12.. events that come before it on the workflow's topic
-- Returns {changes, record}; -1 or -2 as write_step does.
-- #include fence
-- #include clock
-- #include resolve
-- #include subscribe
-- #include stream
local P, id, entry, owner, known, key, delay, at, topic, subscriber, decides, races = KEYS[1], unpack(ARGV, 1, 11)
local EVENTS <const> = 12
local count, old, is = fence(P, id, entry, owner, known, key)
if count < 0 then return count end
claim(P, id, owner, is, now)
if old then return {count, old} end
if #ARGV >= EVENTS and is_told(id, is) then tell(P, id, is, {unpack(ARGV, EVENTS)}) end
local due = delay ~= '' and now + tonumber(delay) or tonumber(at) or 0
local event, event_type, data, decided = '', '', '', 0
local record = {1, 'wait', 'open', now, due, topic, subscriber, event, event_type, data, decided, decides}
local packed
if not join(P, id, races) then
  packed = resolve_one(P, id, key, record, 'closed')
elseif due > 0 and due <= now then
  packed = resolve(P, id, key, record, topic == '' and 'over' or 'expired')
else
  note_wait(P, id, key)
  if due > 0 then redis.call('ZADD', P .. 'timers', due, 'w' .. id .. ' ' .. key) end
  if string.sub(subscriber, 1, 1) == 'w' then subscribe(P, topic, subscriber) end
  packed = rewrite(P, id, key, record)
end
return {changes(P, id), packed}
