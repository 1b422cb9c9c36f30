#!lua flags=allow-oom
-- subscribe: note that a member wants the events of a topic from now on. One that has done so before keeps its place.
-- A minute later an errand checks that a wait has opened: its worker may have died before.
-- KEYS  1 the partition's prefix
-- ARGV  1 topic  2 member: 'f<entry> <id> <step key>' (see open_wait) or 't<workflow>'
-- Returns its place: the id of the topic's last event when it subscribed.
-- #include clock
-- #include subscribe
local P, topic, member = KEYS[1], unpack(ARGV)
local CHECK_MS <const> = 60000
if string.sub(member, 1, 1) == 'f' then
  redis.call('ZADD', P .. 'errands', 'NX', now + CHECK_MS, subscription_check(topic, member))
end
return subscribe(P, topic, member)
