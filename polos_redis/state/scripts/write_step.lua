#!lua flags=allow-oom
-- write_step: journal a step's record and emit events, or emit events alone (a start notice).
-- KEYS  1 the partition's prefix
-- ARGV  1 id  2 entry  3 owner  4 known changes  5 step key, '' for events alone
--       6 record: a msgpack array without its last item, the time, which is added here
--       7.. events of the workflow's own topic, at least one: type, data, type, data
-- Returns the journal's count of changes; -1 when another activation has taken over, -2 when the journal went back.
-- #include fence
-- #include attempt
local P, id, entry, owner, known, key, record = KEYS[1], unpack(ARGV, 1, 6)
local EVENTS <const> = 7
local count, old, is = fence(P, id, entry, owner, known, key)
if count < 0 or key ~= '' and superseded(old, record) then return count end
-- the hottest script: it spells out root_of, and the event's id is the server's time
local event = redis.call('XADD', P .. 'topic:' .. string.match(id, '^[^.]*'), '*', unpack(ARGV, EVENTS))
local now = tonumber(string.match(event, '^%d+'))
claim(P, id, owner, is, now)
if key == '' then return count end
redis.call('HSET', P .. 'journal:' .. id, '', count + 1, key, record .. cmsgpack.pack(now))
return count + 1
