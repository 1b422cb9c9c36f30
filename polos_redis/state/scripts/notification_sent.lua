#!lua flags=allow-oom
-- sent: a notification that was taken needs no sending any more, or is to be sent later.
-- KEYS  1 the partition's prefix
-- ARGV  1 channel  2 notification  3 when it is due again, as `take` said  4 ms from now until it is to be sent, or ''
-- Returns 1, or 0 when it was taken again or noted anew meanwhile (nothing is changed).
-- #include clock
-- #include outbox
local P, channel, notification = KEYS[1], ARGV[1], ARGV[2]
local due = redis.call('ZSCORE', P .. 'outbox:' .. channel, notification)
if tonumber(due or -1) ~= tonumber(ARGV[3]) then return 0 end
if ARGV[4] ~= '' then
  post(P, channel, now + tonumber(ARGV[4]), notification)
else
  redis.call('ZREM', P .. 'outbox:' .. channel, notification)
end
return 1
