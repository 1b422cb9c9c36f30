#!lua
-- trigger: events of a topic begin an execution of a workflow that has subscribed to it, and count as given to it.
-- KEYS  1 the prefix of the topic's partition
-- ARGV  1 topic  2 workflow  3 the place its subscription was at  4 its new place: the last of these events
--       5 not before this ms  6 execution  7 input (codec)  8 retention in ms  9 options (msgpack map, see creation.lua), or ''
-- Returns 0 when it is begun, the ms until it may be, or -1 when the subscription is not at that place any more.
-- #include creation
local P, subs, member, id = KEYS[1], KEYS[1] .. 'subs:' .. ARGV[1], 't' .. ARGV[2], ARGV[6]
if redis.call('HGET', subs, member) ~= ARGV[3] then return -1 end
local early = tonumber(ARGV[5]) - now
if early > 0 then return early end
if redis.call('EXISTS', P .. 'exec:' .. id) == 0 then
  create(P, id, ARGV[2], ARGV[7], ARGV[8], now_us, ARGV[9] ~= '' and cmsgpack.unpack(ARGV[9]))
end
redis.call('HSET', subs, member, ARGV[4])
return 0
