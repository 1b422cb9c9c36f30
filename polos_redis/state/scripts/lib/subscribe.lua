-- subscribe: a member wants the events of a topic after the last one there is now. Returns its place: that one's id.
local function subscribe(P, topic, member)
  local last = redis.call('XREVRANGE', P .. 'topic:' .. topic, '+', '-', 'COUNT', 1)[1]
  redis.call('HSETNX', P .. 'subs:' .. topic, member, last and last[1] or '0-0')
  return redis.call('HGET', P .. 'subs:' .. topic, member)
end
