#!lua flags=allow-oom
-- subscribe: note that somebody wants the events of a topic from now on; who has subscribed before keeps the place.
-- KEYS  1 the partition's prefix
-- ARGV  1 topic  2 member: 'f<entry> <id> <step key>' (see wait) or 't<workflow>'
-- Returns the id of the last event before.
-- #include subscribe
return subscribe(KEYS[1], ARGV[1], ARGV[2])
