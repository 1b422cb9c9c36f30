#!lua flags=allow-oom
-- notification_sent: remove a notification that was sent, or note when it is to be sent again.
-- KEYS  1 the partition's prefix
-- ARGV  1 channel  2 notification  3 when it is due again, as claim_notifications said
--       4 ms from now until it is to be sent again, '' when that is not needed
-- Returns 1, or 0 when it was claimed or noted again meanwhile (nothing is changed).
-- #include clock
-- #include outbox
local P, channel, notification, due, delay = KEYS[1], unpack(ARGV)
if tonumber(redis.call('ZSCORE', P .. 'outbox:' .. channel, notification) or -1) ~= tonumber(due) then return 0 end
if delay ~= '' then
  post(P, channel, now + tonumber(delay), notification)
else
  redis.call('ZREM', P .. 'outbox:' .. channel, notification)
end
return 1
