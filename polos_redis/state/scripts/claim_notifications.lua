#!lua flags=allow-oom
-- take: notifications that a channel has to send now, oldest first. They are due again when they have been held for a
-- while, unless whoever has taken them says before what became of them.
-- KEYS  1 the partition's prefix
-- ARGV  1 channel  2 how many at the most  3 for how long they are held, ms
-- Returns {ms when they are due again, notification, notification, ..}.
-- #include clock
-- #include outbox
local P, channel, due = KEYS[1], ARGV[1], now + tonumber(ARGV[3])
local taken = redis.call('ZRANGEBYSCORE', P .. 'outbox:' .. channel, '-inf', now, 'LIMIT', 0, tonumber(ARGV[2]))
for _, notification in ipairs(taken) do post(P, channel, due, notification) end
return {due, unpack(taken)}
