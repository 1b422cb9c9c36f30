-- post: note that a channel has to send a notification, or to try it again. What no worker takes within a week is
-- dropped: no worker has that channel any more.
local function post(P, channel, due, notification)
  redis.call('ZADD', P .. 'outbox:' .. channel, due, notification)
  redis.call('PEXPIRE', P .. 'outbox:' .. channel, 604800000)
end
