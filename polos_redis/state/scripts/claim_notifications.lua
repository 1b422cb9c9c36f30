#!lua flags=allow-oom
-- claim_notifications: claim the notifications that a channel has to send now, oldest first. They are due again after a
-- while, unless the worker reports before what became of them.
-- KEYS  1 the partition's prefix
-- ARGV  1 channel  2 how many at most  3 how long they are claimed, ms
-- Returns {ms when they are due again, notification, notification, ..}.
-- #include clock
-- #include outbox
local P, channel, limit, hold = KEYS[1], unpack(ARGV)
local due = now + tonumber(hold)
local taken = redis.call('ZRANGEBYSCORE', P .. 'outbox:' .. channel, '-inf', now, 'LIMIT', 0, tonumber(limit))
for _, notification in ipairs(taken) do post(P, channel, due, notification) end
return {due, unpack(taken)}
