#!lua
-- publish: add an event to a topic, and hand it to those who wait for one.
-- KEYS  1 the partition's prefix
-- ARGV  1 topic  2 execution the topic belongs to, or ''  3 retention of a free topic, ms  4 event type  5 data (codec)
--       6 '' or a name: the event is published once under it  7 for how many ms, '' for the retention
-- Returns the event's stream id.
-- #include errands
-- #include event
-- #include stream
local P, topic, id, retention, kind, data, name, once_ms = KEYS[1], unpack(ARGV)
local key, once = P .. 'topic:' .. topic, name ~= '' and P .. 'once:' .. name
local before = once and redis.call('GET', once)
if before then return before end
local status, its_retention
if id ~= '' then status, its_retention = unpack(redis.call('HMGET', P .. 'exec:' .. id, 'status', 'retention')) end
if topic == id then follow(P, id) end
local ttl = redis.call('PTTL', key)
local event = redis.call('XADD', key, '*', kind, data)
if not status then
  redis.call('XTRIM', key, 'MINID', '~', math.max(0, now - tonumber(retention)))
  redis.call('PEXPIRE', key, retention)
elseif not is_live(status) then
  if ttl < 0 then redis.call('PEXPIRE', key, its_retention) end
elseif ttl ~= -1 and topic ~= root_of(id) then
  redis.call('PEXPIRE', key, its_retention) -- neither its stream nor a suspension's topic: its end does not know of it
end
if once then redis.call('SET', once, event, 'PX', once_ms ~= '' and once_ms or retention) end

local subs = P .. 'subs:' .. topic
local count = redis.call('HLEN', subs)
if count == 0 then return event end
-- no event overtakes one that errands are handing out
local many = count > 100 or redis.call('HEXISTS', subs, 'g') == 1
local waiting, others = many, many
if many then
  redis.call('HSET', subs, 'g', event)
else
  local members = redis.call('HGETALL', subs)
  for i = 1, #members, 2 do
    local member, given = members[i], members[i + 1]
    local member_kind = string.sub(member, 1, 1)
    if member_kind == 'w' then
      occur(P, member, event, kind, data)
      redis.call('HDEL', subs, member)
    elseif member_kind ~= 'f' then
      others = true
    elseif not string.find(given, '=', 1, true) then -- its event is this one, however many follow
      redis.call('HSET', subs, member, given .. '=' .. event)
      waiting = true
    end
  end
end
if waiting then note_errand(P, 'w' .. topic) end
if others then note_errand(P, 'e' .. topic) end
return event
