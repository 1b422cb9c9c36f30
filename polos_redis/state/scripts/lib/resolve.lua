-- #include errands
-- #include record
-- #include waits
-- A wait's record in the journal, by position. All begin with version, kind, status, opened; then
-- suspend  deadline, shown, answer (before it is decided: what holds when nobody answers, or ''), digest, by, channel,
--          decided, terms, decisions, race, digest of what is shown, retention of its audit in ms, run
-- wait     due (0: none), topic ('': a delay), subscriber, event id, event type, data, decided, race
-- child    children, results to come, children begun, decided, race
-- race     (not a wait) winner, decided, its members: step key, branch, step key, branch ...
local STATUS, OPENED, DEADLINE = 3, 4, 5
local SHOWN, ANSWER, DIGEST, BY, CHANNEL, DECIDED, POLICY, DECISIONS = 6, 7, 8, 9, 10, 11, 12, 13
local SHOWN_DIGEST, AUDIT = 15, 16
local RACE = {suspend = 14, wait = 12, child = 9} -- the race that the wait decides, '' for none

-- answer_event: {data, resumed_by, resumed_at, channel} as one msgpack map around the answer's own bytes.
local function answer_event(record)
  return '\132\164data' .. record[ANSWER]
    .. cmsgpack.pack('resumed_by') .. (record[BY] == '' and '\192' or cmsgpack.pack(record[BY]))
    .. cmsgpack.pack('resumed_at') .. cmsgpack.pack(record[DECIDED])
    .. cmsgpack.pack('channel') .. cmsgpack.pack(record[CHANNEL])
end

-- tell: an event of a suspension, on its own topic and on the workflow's.
local function emit(P, id, key, kind, data)
  local root = string.match(id, '^[^.]*')
  redis.call('XADD', P .. 'topic:' .. key .. '/' .. id, '*', kind, data)
  redis.call('XADD', P .. 'topic:' .. root, '*', kind .. '_' .. key .. (root == id and '' or '\0' .. id), data)
end

-- note_audit: what has become of a suspension, or one of several decisions on it, is kept for long after the execution:
-- execution, step key, workflow, what, ms, by, channel, digest of what was shown, opened ms, the answer (codec) or ''.
local function note_audit(P, id, key, record, what, now)
  local audit = P .. 'audit:' .. string.match(id, '^[^.]*')
  redis.call('RPUSH', audit, cmsgpack.pack({id, key, redis.call('HGET', P .. 'exec:' .. id, 'workflow') or '', what, now,
    record[BY], record[CHANNEL], record[SHOWN_DIGEST] or '', record[OPENED], what == 'closed' and '' or record[ANSWER]}))
  redis.call('PEXPIRE', audit, record[AUDIT] or 31536000000)
end

-- resolve_one: write the decision of an open wait, remove its timer, inbox row and subscription, tell its topics.
-- Returns the new record. The caller has checked that it is open.
-- suspend: answered, expired, closed; wait: over, event, expired, closed; child: done, closed; backoff: retry, abandoned
local function resolve_one(P, id, key, record, status, now)
  local kind = record[2]
  record[STATUS] = status
  local member = id .. ' ' .. key
  if kind == 'step' then
    redis.call('ZREM', P .. 'timers', 'b' .. member)
    forget_wait(P, id, key)
    return rewrite(P, id, key, record)
  elseif kind == 'child' then
    record[8] = now
    forget_wait(P, id, key)
    return rewrite(P, id, key, record)
  elseif kind == 'wait' then
    record[11] = now
    if record[DEADLINE] > 0 then redis.call('ZREM', P .. 'timers', 'w' .. member) end
    if string.sub(record[7], 1, 1) == 'w' then
      redis.call('HDEL', P .. 'subs:' .. record[6], record[7])
    elseif record[7] ~= '' and status ~= 'event' then -- after an event, who has handed it out sees to that
      note_errand(P, 'u' .. #record[6] .. ' ' .. record[6] .. record[7])
    end
    forget_wait(P, id, key)
    return rewrite(P, id, key, record)
  end
  record[DECIDED] = now
  local packed = rewrite(P, id, key, record)
  redis.call('ZREM', P .. 'suspensions', member)
  if record[DEADLINE] > 0 then redis.call('ZREM', P .. 'timers', 's' .. member) end
  note_audit(P, id, key, record, status, now)
  if status == 'answered' then
    emit(P, id, key, 'resume', answer_event(record))
  elseif status == 'expired' then
    emit(P, id, key, 'timeout', '\129' .. cmsgpack.pack('deadline') .. cmsgpack.pack(record[DEADLINE]))
  end
  return packed
end

-- close: an open wait is given up; a step whose retry waits becomes `step_status`.
local function close(P, id, key, now, step_status)
  local packed = redis.call('HGET', P .. 'journal:' .. id, key)
  local record = packed and read_record(packed) or {}
  if record[2] == 'race' then
    return
  elseif record[STATUS] == 'open' then
    resolve_one(P, id, key, record, 'closed', now)
  elseif record[STATUS] == 'backoff' then
    resolve_one(P, id, key, record, step_status, now)
  elseif not record[STATUS] then -- lost or damaged: what belongs to it must not stay
    local member = id .. ' ' .. key
    redis.call('ZREM', P .. 'suspensions', member)
    redis.call('ZREM', P .. 'timers', 's' .. member, 'b' .. member, 'w' .. member)
  end
end

-- give_up: the workflow's code has cancelled its wait, or the retry of a step that has not begun since.
local function give_up(P, id, key, now)
  local packed = redis.call('HGET', P .. 'journal:' .. id, key)
  local record = packed and read_record(packed) or {}
  if record[2] == 'step' and record[STATUS] == 'retry' then
    resolve_one(P, id, key, record, 'abandoned', now)
  else
    close(P, id, key, now, 'abandoned')
  end
end

-- resolve: as resolve_one, and where the wait is one of a race's members: it has won, the others are closed.
local function resolve(P, id, key, record, status, now)
  local packed = resolve_one(P, id, key, record, status, now)
  local position = RACE[record[2]]
  local race = position and record[position]
  if race and race ~= '' then
    local held = redis.call('HGET', P .. 'journal:' .. id, race)
    local r = held and read_record(held) or {}
    if r[STATUS] == 'open' then
      r[STATUS], r[6] = 'won', now
      for i = 1, #r[7], 2 do
        if r[7][i] == key then r[5] = r[7][i + 1] else close(P, id, r[7][i], now, 'abandoned') end
      end
      rewrite(P, id, race, r)
    end
  end
  return packed
end

-- join: a wait that opens in branches of races becomes a member of each, as do the steps that were begun there
-- before; false when another branch has won one of them. `packed`: a list of {race, branch, step key ...}, or ''.
local function join(P, id, packed, now)
  if packed == '' then return true end
  local free = true
  for _, one in ipairs(cmsgpack.unpack(packed)) do
    local held = redis.call('HGET', P .. 'journal:' .. id, one[1])
    local race = held and read_record(held) or {1, 'race', 'open', now, '', 0, {}}
    if race[STATUS] == 'open' or race[5] ~= one[2] then
      free = free and race[STATUS] == 'open'
      local members, known = race[7], {}
      for i = 1, #members, 2 do known[members[i]] = true end
      for i = 3, #one do
        if not known[one[i]] then
          members[#members + 1] = one[i]
          members[#members + 1] = one[2]
        end
      end
      rewrite(P, id, one[1], race)
    end
  end
  return free
end
