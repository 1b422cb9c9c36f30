-- post: a channel is to send a notification, or to try it again. What no worker has taken for a week is forgotten: there
-- is none any more that has the channel.
local function post(P, channel, due, notification)
  redis.call('ZADD', P .. 'outbox:' .. channel, due, notification)
  redis.call('PEXPIRE', P .. 'outbox:' .. channel, 604800000)
end
