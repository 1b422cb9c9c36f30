#!lua
-- fork: create an execution that goes on from part of another one's journal, and make it runnable. Idempotent by the
-- execution's id.
-- KEYS  1 the partition's prefix
-- ARGV  1 id  2 workflow  3 input (codec)  4 retention in ms  5 options (msgpack map, see creation.lua), or ''
--       6 data of its start event (codec)  7 the suspensions in the journal, for the audit: a msgpack list of {step
--       key, who copies it, reason}  8.. the journal: step key, record, step key, record ...
-- Returns 1 when created, 0 when there was one with this id (nothing is changed).
-- #include creation
-- #include resolve
local P, id, workflow, input, retention, packed, start, decisions = KEYS[1], unpack(ARGV, 1, 7)
local JOURNAL <const> = 8
local AT_ONCE <const> = 1000 -- of them, in a command
local options = packed ~= '' and cmsgpack.unpack(packed) or {}
local name = name_for(P, id, workflow, options.queue)
if not name then return 0 end
list(P, 'queued', name, now_us, id) -- first: repair finds it there, and drops a journal without an execution
if #ARGV >= JOURNAL then redis.call('HSET', P .. 'journal:' .. id, '', (#ARGV - JOURNAL + 1) / 2) end
local some = {}
for i = JOURNAL, #ARGV do
  some[#some + 1] = ARGV[i]
  if #some == AT_ONCE or i == #ARGV then
    redis.call('HSET', P .. 'journal:' .. id, unpack(some))
    some = {}
  end
end
list(P, 'all', name, now_us, id)
local relations = relations_for(P, options, now)
if relations.deadline then redis.call('ZADD', P .. 'timers', relations.deadline, 't' .. id) end
-- it counts as started, so its activations look at the journal; the first one brings its version nevertheless
local fields = {'workflow', workflow, 'status', 'queued', 'run', 1, 'input', input, 'created', now_us, 'retention',
  retention, 'started', now, 'forked', 1}
if name ~= workflow then append(fields, 'index', name) end
for _, option in ipairs({'queue', 'origin'}) do
  if options[option] then append(fields, option, options[option]) end
end
if next(relations) then append(fields, 'relations', cmsgpack.pack(relations)) end
redis.call('HSET', P .. 'exec:' .. id, unpack(fields))
redis.call('XADD', P .. 'topic:' .. id, '*', 'workflow_start', start) -- its steps were told elsewhere
redis.call('HSET', P .. 'exec:' .. id, 'stream', 1)
for _, decision in ipairs(cmsgpack.unpack(decisions)) do
  local key, by, reason = unpack(decision)
  local record = record_of(P, id, key)
  add_to_audit(P, id, key, 'copied', by, '', record[SHOWN_DIGEST], record[OPENED],
    record[STATUS] == 'closed' and '' or record[ANSWER], record[AUDIT], reason)
end
offer_listed(P, id, name, now_us, workflow, 1, options.queue, relations)
return 1
