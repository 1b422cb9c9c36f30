#!lua
-- trigger_workflow: start an execution of a workflow that has subscribed to a topic with events of it, and move the
-- subscription past them.
-- KEYS  1 the prefix of the topic's partition
-- ARGV  1 topic  2 workflow  3 the place its subscription was at  4 its new place: the last of these events
--       5 not before this ms  6 execution  7 input (codec)  8 retention in ms
--       9 options (msgpack map, see creation.lua), or ''
-- Returns 0 when it is started, the ms until it may be, or -1 when the subscription is not at that place any more.
-- #include creation
local P, topic, workflow, from, to, earliest, id, input, retention, options = KEYS[1], unpack(ARGV)
local subs, member = P .. 'subs:' .. topic, 't' .. workflow
if redis.call('HGET', subs, member) ~= from then return -1 end
local early = tonumber(earliest) - now
if early > 0 then return early end
create(P, id, workflow, input, retention, now_us, options ~= '' and cmsgpack.unpack(options))
redis.call('HSET', subs, member, to)
return 0
