-- #include errands
-- #include execution
-- #include extend
-- #include append
-- #include waits
local RACE_KEY <const> = 1
local RACE_BRANCH <const> = 2
local FIRST_STEP <const> = 3 -- in an entrant of a race: {race, branch, step key ...}

-- answer_event: {data, resumed_by, resumed_at, channel} as one msgpack map of four, around the answer's own bytes.
local function answer_event(record)
  return '\132\164data' .. record[ANSWER] .. cmsgpack.pack('resumed_by', record[BY] ~= '' and record[BY] or nil,
    'resumed_at', record[DECIDED], 'channel', record[CHANNEL])
end

-- emit: emit an event of a suspension, on its own topic and on the workflow's.
local function emit(P, id, key, kind, data)
  local root = root_of(id)
  redis.call('XADD', P .. 'topic:' .. key .. '/' .. id, '*', kind, data)
  redis.call('XADD', P .. 'topic:' .. root, '*', event_of(id, root, kind .. '_' .. key), data)
end

-- add_to_audit: add an entry to the audit, which outlives the execution: {version, execution, step key, workflow,
-- what, ms, by, channel, digest of what was shown, opened ms, the answer (codec) or '', and the reason if there is
-- one}. It is kept for `retention` ms at least; without one, as long as the audit is kept anyway, or a year.
local function add_to_audit(P, id, key, what, by, channel, digest, opened, answer, retention, reason)
  local audit = P .. 'audit:' .. root_of(id)
  local workflow = redis.call('HGET', P .. 'exec:' .. id, 'workflow') or ''
  local entry = {1, id, key, workflow, what, now, by, channel, digest, opened, answer, reason}
  redis.call('RPUSH', audit, cmsgpack.pack(entry))
  if retention then
    extend(audit, retention)
  else
    redis.call('PEXPIRE', audit, 31536000000, 'NX')
  end
end

-- note_audit: add what became of a suspension, or one of several decisions on it, to the audit.
local function note_audit(P, id, key, record, what)
  add_to_audit(P, id, key, what, record[BY], record[CHANNEL], record[SHOWN_DIGEST] or '', record[OPENED],
    what == 'closed' and '' or record[ANSWER], record[AUDIT])
end

-- may_mark: whether a record is that of an accepted answer which code has to reach.
local function may_mark(record)
  return record[KIND] == 'suspend' and record[STATUS] == 'answered' and not record[MARK]
end

-- mark: note that code need not reach an accepted answer: it is 'left' (the code cancelled the task that waited for
-- it), 'optional' (asked for after what a retry has dropped) or 'skipped' (by somebody, for a reason). The caller
-- counts the change.
local function mark(P, id, key, record, kind, by, reason)
  record[FORM] = record[FORM] or '' -- no gap
  record[MARK] = {kind, now, by or '', reason or ''}
  redis.call('HSET', P .. 'journal:' .. id, key, cmsgpack.pack(record))
end

-- resolve_one: write the decision of an open wait, remove its timer, inbox row and subscription, emit its events.
-- Returns the new record, packed. The caller has checked that the wait is open. The statuses that it can get:
-- suspend: answered, expired, closed; wait: over, event, expired, closed; child: done, closed; step whose retry waits:
-- retry, abandoned
local function resolve_one(P, id, key, record, status)
  local kind, member = record[KIND], id .. ' ' .. key
  record[STATUS] = status
  local position = ({suspend = DECIDED, wait = WAIT_DECIDED, child = CHILD_DECIDED})[kind]
  if position then record[position] = now end
  local packed = rewrite(P, id, key, record) -- first: an open wait always has its rows
  if kind == 'suspend' then
    redis.call('ZREM', P .. 'suspensions', member)
    if record[DEADLINE] > 0 then redis.call('ZREM', P .. 'timers', 's' .. member) end
    note_audit(P, id, key, record, status)
    if status == 'answered' then
      emit(P, id, key, 'resume', answer_event(record))
    elseif status == 'expired' then -- a map of one
      emit(P, id, key, 'timeout', '\129' .. cmsgpack.pack('deadline', record[DEADLINE]))
    end
    return packed
  elseif kind == 'wait' then
    local topic, subscriber = record[WAIT_TOPIC], record[WAIT_SUBSCRIBER]
    if record[DEADLINE] > 0 then redis.call('ZREM', P .. 'timers', 'w' .. member) end
    if string.sub(subscriber, 1, 1) == 'w' then
      redis.call('HDEL', P .. 'subs:' .. topic, subscriber)
    elseif subscriber ~= '' and status ~= 'event' then -- after an event, whoever handed it out sees to that
      note_errand(P, 'u' .. #topic .. ' ' .. topic .. subscriber)
    end
  elseif kind ~= 'child' then
    redis.call('ZREM', P .. 'timers', 'b' .. member)
  end
  forget_wait(P, id, key)
  return packed
end

-- close: give up an open wait; a step whose retry waits becomes `step_status`.
local function close(P, id, key, step_status)
  local record = record_of(P, id, key)
  if record[KIND] == 'race' then
    return
  elseif record[STATUS] == 'open' then
    resolve_one(P, id, key, record, 'closed')
  elseif record[STATUS] == 'backoff' then
    resolve_one(P, id, key, record, step_status)
  elseif not record[STATUS] then -- lost or damaged: its rows must not stay
    local member = id .. ' ' .. key
    redis.call('ZREM', P .. 'suspensions', member)
    redis.call('ZREM', P .. 'timers', 's' .. member, 'b' .. member, 'w' .. member)
  end
end

-- give_up: the workflow's code has cancelled a wait, or the task that has its answer, or a step's retry that has not
-- started yet.
local function give_up(P, id, key)
  local record = record_of(P, id, key)
  if record[KIND] == 'step' and record[STATUS] == 'retry' then
    resolve_one(P, id, key, record, 'abandoned')
  elseif may_mark(record) then
    mark(P, id, key, record, 'left')
    redis.call('HINCRBY', P .. 'journal:' .. id, '', 1)
  else
    close(P, id, key, 'abandoned')
  end
end

-- resolve: as resolve_one; a wait that is a member of a race also wins it, and the other members are closed.
local function resolve(P, id, key, record, status)
  local packed = resolve_one(P, id, key, record, status)
  local position = ({suspend = SUSPEND_RACE, wait = WAIT_RACE, child = CHILD_RACE})[record[KIND]]
  local race_key = position and record[position]
  if race_key and race_key ~= '' then
    local race = record_of(P, id, race_key)
    if race[STATUS] == 'open' then
      race[STATUS], race[RACE_DECIDED] = 'won', now
      local members = race[RACE_MEMBERS]
      for i = 1, #members, 2 do
        if members[i] == key then race[RACE_WINNER] = members[i + 1] else close(P, id, members[i], 'abandoned') end
      end
      rewrite(P, id, race_key, race)
    end
  end
  return packed
end

-- add_members: add what was started in a race's branches to its members, unless it is there: step key, branch, step
-- key, branch ..., from position `first` of a list. Returns whether anything was added.
local function add_members(members, started, first)
  local known, more = {}, false
  for i = 1, #members, 2 do known[members[i]] = true end
  for i = first, #started, 2 do
    if not known[started[i]] then
      append(members, started[i], started[i + 1])
      more = true
    end
  end
  return more
end

-- join: make a wait that opens in branches of races a member of each, with the steps started there before. Returns
-- false when another branch has won one of the races. `packed`: a list of {race, branch, step key ...}, or ''.
local function join(P, id, packed)
  if packed == '' then return true end
  local free = true
  for _, entrant in ipairs(cmsgpack.unpack(packed)) do
    local race_key, branch = entrant[RACE_KEY], entrant[RACE_BRANCH] -- unpack can't return any number of step keys
    local held = redis.call('HGET', P .. 'journal:' .. id, race_key)
    local race = held and read_record(held) or {1, 'race', 'open', now, '', 0, {}} -- no winner, undecided, no members
    if race[STATUS] == 'open' or race[RACE_WINNER] ~= branch then
      free = free and race[STATUS] == 'open'
      local started = {}
      for i = FIRST_STEP, #entrant do append(started, entrant[i], branch) end
      add_members(race[RACE_MEMBERS], started, 1)
      rewrite(P, id, race_key, race)
    end
  end
  return free
end
