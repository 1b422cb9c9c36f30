-- #include resolve
-- In an early answer: {version, answer, digest, by, channel, ms, groups, id of an API key or ''}.
local EARLY_ANSWER <const> = 2
local EARLY_DIGEST <const> = 3
local EARLY_BY <const> = 4
local EARLY_KEY <const> = 8
local DECISION_DIGEST <const> = 2 -- in a decision: {answer, digest, by, channel, ms, approves, person}
local DECISION_BY <const> = 3

-- was_given: whether an early answer is one that its suspension has got, alone or among several.
local function was_given(record, early)
  local digest, by = early[EARLY_DIGEST], early[EARLY_BY]
  if record[KIND] ~= 'suspend' then return false end
  if record[STATUS] == 'answered' and record[DIGEST] == digest and record[BY] == by then return true end
  for _, one in ipairs(record[DECISIONS] ~= '' and cmsgpack.unpack(record[DECISIONS]) or {}) do
    if one[DECISION_DIGEST] == digest and one[DECISION_BY] == by then return true end
  end
  return false
end

-- note_unused: an early answer is dropped. Unless its suspension has got it, the audit says that it was not used.
local function note_unused(P, id, key, packed)
  local early = read_record(packed) -- it may be damaged
  if was_given(record_of(P, id, key), early) then return end
  local answer, _, by, channel = unpack(early, EARLY_ANSWER)
  add_to_audit(P, id, key, 'unused', by or '', channel or '', '', 0, answer or '')
end
