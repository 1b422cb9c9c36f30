-- The positions in a journal record, which is one msgpack array (see journal.py). Every record begins with the version
-- of its format, then:
local KIND <const> = 2
local STATUS <const> = 3
local OPENED <const> = 4 -- ms; of a step, which has none: ATTEMPT
-- step: how often it took, value or error, in slots the state, and the time as the last item
local ATTEMPT <const> = 4
-- suspend
local DEADLINE <const> = 5 -- ms, 0 for none; of a wait: when it is over
local SHOWN <const> = 6
local ANSWER <const> = 7 -- before the decision: the default that holds when nobody answers, or ''
local DIGEST <const> = 8 -- of the answer
local BY <const> = 9
local CHANNEL <const> = 10
local DECIDED <const> = 11 -- ms, 0 while it is open; likewise below
local POLICY <const> = 12
local DECISIONS <const> = 13 -- a packed list of several people's, or ''
local SUSPEND_RACE <const> = 14 -- the step key of the race that it decides, or ''; likewise below
local SHOWN_DIGEST <const> = 15
local AUDIT <const> = 16 -- the retention of its audit, ms; then comes the run
local FORM <const> = 18 -- of its page, '' or left out for none
local MARK <const> = 19 -- why code need not reach its answer: {kind, ms, by, reason}; left out for none. See mark
-- wait
local WAIT_TOPIC <const> = 6 -- '' for a delay
local WAIT_SUBSCRIBER <const> = 7
local WAIT_EVENT <const> = 8 -- the id of the event that has decided it
local WAIT_EVENT_TYPE <const> = 9
local WAIT_DATA <const> = 10
local WAIT_DECIDED <const> = 11
local WAIT_RACE <const> = 12
-- child: a step that starts children
local CHILD_TOTAL <const> = 5
local CHILD_LEFT <const> = 6 -- how many have not ended yet
local CHILD_STARTED <const> = 7
local CHILD_DECIDED <const> = 8
local CHILD_RACE <const> = 9
-- race: not a wait itself
local RACE_WINNER <const> = 5
local RACE_DECIDED <const> = 6
local RACE_MEMBERS <const> = 7 -- what was started in its branches: step key, branch, step key, branch ...
-- A child's result is no such record: {version, status, value, step key, ms}.
local RESULT_STATUS <const> = 2
local RESULT_STEP <const> = 4 -- the step key that waits for it
local RESULT_OPENED <const> = 5 -- when that began to wait, ms

-- read_record: a journal record; empty when it is damaged, because one unreadable record must not stop the others.
local function read_record(packed)
  local whole, record = pcall(cmsgpack.unpack, packed)
  return whole and type(record) == 'table' and record or {}
end
