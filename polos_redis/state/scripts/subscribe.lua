#!lua flags=allow-oom
-- subscribe: note that a member wants the events of a topic from now on. One that has done so before keeps its place.
-- KEYS  1 the partition's prefix
-- ARGV  1 topic  2 member: 'f<entry> <id> <step key>' (see open_wait) or 't<workflow>'
-- Returns its place: the id of the topic's last event when it subscribed.
-- #include subscribe
local P, topic, member = KEYS[1], unpack(ARGV)
return subscribe(P, topic, member)
