#!lua
-- follow: give an execution's tree its stream, for somebody who is about to read it, unless it has one.
-- KEYS  1 the partition's prefix
-- ARGV  1 id of the root  2 for how many ms there is an empty stream when there is no such execution yet
-- Returns 1, or 0 when there is no such execution.
-- #include stream
local P, id, ms = KEYS[1], unpack(ARGV)
if follow(P, id) then return 1 end
local topic = P .. 'topic:' .. id
if redis.call('EXISTS', topic) == 1 then
  redis.call('PEXPIRE', topic, ms, 'GT')
else
  create_empty(topic)
  redis.call('PEXPIRE', topic, ms)
end
return 0
