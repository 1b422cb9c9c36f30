#!lua flags=allow-oom
-- deliver: an event of a topic in another partition decides a wait.
-- KEYS  1 the partition's prefix
-- ARGV  1 execution  2 step key  3 event id  4 event type  5 data (codec)
-- Returns 1, or 0 when nobody waits for it (any more).
-- #include event
return occur(KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]) and 1 or 0
