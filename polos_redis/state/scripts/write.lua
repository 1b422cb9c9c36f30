#!lua flags=allow-oom
-- write: journal a step's record and emit events, or emit events alone (a start notice).
-- KEYS  1 the partition's prefix
-- ARGV  1 id  2 entry  3 owner  4 known changes  5 step key, '' for events alone
--       6 record: a msgpack array of 7 without its last item, the time, which is added here
--       7.. events of the workflow's own topic, at least one: type, data, type, data
-- Returns the journal's count of changes; -1 lost to another activation, -2 the journal went back.
-- #include fence
-- #include attempt
local P, id, key = KEYS[1], ARGV[1], ARGV[5]
local n, old, e = fence(P, id, ARGV[2], ARGV[3], ARGV[4], key)
if n < 0 or key ~= '' and superseded(old, ARGV[6]) then return n end
local event = redis.call('XADD', P .. 'topic:' .. string.match(id, '^[^.]*'), '*', unpack(ARGV, 7))
local now = tonumber(string.match(event, '^%d+'))  -- the hottest script: the event's id is the server's time
claim(P, id, ARGV[3], e, now)
if key == '' then return n end
redis.call('HSET', P .. 'journal:' .. id, '', n + 1, key, ARGV[6] .. cmsgpack.pack(now))
return n + 1
