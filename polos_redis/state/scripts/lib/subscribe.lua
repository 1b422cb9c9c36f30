-- #include stream
-- subscribe: note that a member wants the events of a topic that come after its last one now. Returns the member's
-- place: the id of that last event.
local function subscribe(P, topic, member)
  follow(P, topic)
  local last = redis.call('XREVRANGE', P .. 'topic:' .. topic, '+', '-', 'COUNT', 1)[1]
  local id = unpack(last or {'0-0'})
  redis.call('HSETNX', P .. 'subs:' .. topic, member, id)
  return redis.call('HGET', P .. 'subs:' .. topic, member)
end

-- subscription_check: the errand that ends the subscription of a wait in another partition, unless that is open or
-- about to be.
local function subscription_check(topic, member)
  return 's' .. #topic .. ' ' .. topic .. member
end
