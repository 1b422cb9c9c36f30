#!lua
-- publish: add an event to a topic.
-- KEYS  1 the partition's prefix
-- ARGV  1 topic  2 execution the topic belongs to, or ''  3 retention of a free topic, ms  4 event type  5 data (codec)
-- Returns the event's stream id.
-- #include clock
local P, key = KEYS[1], KEYS[1] .. 'topic:' .. ARGV[1]
local ttl = redis.call('PTTL', key)
local entry = redis.call('XADD', key, '*', ARGV[4], ARGV[5])
local e = ARGV[2] ~= '' and redis.call('HMGET', P .. 'exec:' .. ARGV[2], 'status', 'retention') or {}
if not e[1] then
  redis.call('XTRIM', key, 'MINID', '~', math.max(0, now - tonumber(ARGV[3])))
  redis.call('PEXPIRE', key, ARGV[3])
elseif e[1] ~= 'queued' and e[1] ~= 'waiting' then
  if ttl < 0 then redis.call('PEXPIRE', key, e[2]) end
elseif ttl ~= -1 and ARGV[1] ~= string.match(ARGV[2], '^[^.]*') then
  redis.call('PEXPIRE', key, e[2]) -- neither its stream nor a suspension's topic: its end does not know of it
end
return entry
