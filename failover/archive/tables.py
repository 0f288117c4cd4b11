"""The tables of the index, as SQL. Pure text; `index` opens it, `queries` asks it, `ledger` marks in it.

Text columns that are searched hold the normal form of `dicom.query_keys`; what is shown stands in
`attributes` and in `json`. A column's meaning changes only with VERSION.
"""

from __future__ import annotations

from typing import Final

VERSION: Final = 8

TABLES: Final = """
CREATE TABLE studies (
  id INTEGER PRIMARY KEY,
  uid TEXT NOT NULL UNIQUE,
  patient_key TEXT NOT NULL,            -- patient ID and issuer as written: who is one patient
  patient_id TEXT NOT NULL, issuer TEXT NOT NULL,
  name_1 TEXT NOT NULL, name_2 TEXT NOT NULL, name_3 TEXT NOT NULL,
  name_words TEXT NOT NULL DEFAULT '',  -- `dicom.fuzzy_names`
  birth_date TEXT NOT NULL, sex TEXT NOT NULL,
  date TEXT NOT NULL, time TEXT NOT NULL,
  accession TEXT NOT NULL, study_id TEXT NOT NULL, description TEXT NOT NULL,
  from_primary INTEGER NOT NULL,        -- the attributes are the primary's: a caller's change them no more
  protected INTEGER NOT NULL DEFAULT 0, -- never evicted
  series INTEGER NOT NULL, instances INTEGER NOT NULL, bytes INTEGER NOT NULL,  -- without hidden ones
  last_arrival REAL NOT NULL,
  attributes TEXT NOT NULL,             -- DICOM JSON of the study and patient level, without counts
  json TEXT NOT NULL                    -- the finished answer; U+FFFF stands where the base URL goes
) STRICT;
-- With what is searched by a part of it: a search that must look at all studies looks at these alone.
CREATE INDEX studies_by_date ON studies(date DESC, time DESC, id DESC,
  name_1, name_2, name_3, name_words, patient_id, accession, description, birth_date, sex);
CREATE INDEX studies_by_patient ON studies(patient_id);
CREATE INDEX studies_by_patient_key ON studies(patient_key);
CREATE INDEX studies_by_name_1 ON studies(name_1);
CREATE INDEX studies_by_name_2 ON studies(name_2) WHERE name_2 != '';
CREATE INDEX studies_by_name_3 ON studies(name_3) WHERE name_3 != '';
CREATE INDEX studies_by_accession ON studies(accession);

CREATE TABLE series (
  id INTEGER PRIMARY KEY,
  uid TEXT NOT NULL,
  study INTEGER NOT NULL REFERENCES studies(id),
  modality TEXT NOT NULL, number INTEGER, description TEXT NOT NULL, date TEXT NOT NULL,
  instances INTEGER NOT NULL, bytes INTEGER NOT NULL,
  attributes TEXT NOT NULL,
  json TEXT NOT NULL,
  UNIQUE (study, uid)
) STRICT;
CREATE INDEX series_by_uid ON series(uid);
CREATE INDEX series_by_modality ON series(study, modality);

CREATE TABLE instances (
  id INTEGER PRIMARY KEY,
  uid TEXT NOT NULL UNIQUE,
  study INTEGER NOT NULL REFERENCES studies(id),
  series INTEGER NOT NULL REFERENCES series(id),
  sop_class TEXT NOT NULL, number INTEGER,
  transfer_syntax TEXT NOT NULL,
  path TEXT NOT NULL,                   -- relative to data_dir
  bytes INTEGER NOT NULL,               -- of the file
  data_set_offset INTEGER NOT NULL,
  pixel_offset INTEGER, pixel_length INTEGER,  -- in the file; no length: encapsulated; none when deflated
  digest BLOB NOT NULL,                 -- SHA-256 of transfer syntax and data set of the file as it is now
  patient_id TEXT NOT NULL,             -- as written in this very instance
  hidden INTEGER NOT NULL DEFAULT 0,    -- deleted on the primary, or rejected: kept, never shown
  -- the ledger: what the archive owes the primary
  origin TEXT NOT NULL,
  state TEXT NOT NULL,
  arrived_at REAL NOT NULL,             -- seconds since 1970, our own clock
  sent_at REAL, proven_at REAL,
  state_since REAL,                     -- owed again, refused or deleted since; NULL: owed since it arrived
  attempts INTEGER NOT NULL DEFAULT 0,
  refused_status INTEGER,
  json TEXT NOT NULL,
  -- lossless compression in the background
  compression TEXT,                     -- NULL: not looked at yet; 'done'; else why the original stays
  arrived_digest BLOB,                  -- of what came, where the file is another by now; NULL: the same
  arrived TEXT                          -- JSON: what brings back what came
) STRICT;
CREATE INDEX instances_by_series ON instances(series, number, id);
CREATE INDEX instances_by_study ON instances(study);
CREATE INDEX instances_in_debt ON instances(state, arrived_at) WHERE state IN ('owed', 'sent', 'refused');
CREATE INDEX instances_paid_off ON instances(state, arrived_at) WHERE state IN ('proven', 'deleted');
CREATE INDEX instances_by_arrival ON instances(arrived_at);
CREATE UNIQUE INDEX instances_by_path ON instances(path);
CREATE INDEX instances_to_compress ON instances(id)
  WHERE compression IS NULL AND state IN ('none', 'proven') AND proven_at IS NOT NULL;
CREATE INDEX instances_owed_compressed ON instances(arrived_at)
  WHERE state = 'owed' AND compression = 'done';
CREATE INDEX instances_hidden ON instances(state, study) WHERE hidden = 1;

CREATE TABLE history (                  -- what a correction by the primary replaced; never served
  id INTEGER PRIMARY KEY,
  uid TEXT NOT NULL, study_uid TEXT NOT NULL, path TEXT NOT NULL,
  digest BLOB NOT NULL, bytes INTEGER NOT NULL,
  transfer_syntax TEXT NOT NULL, replaced_at REAL NOT NULL
) STRICT;

CREATE TABLE quarantine (               -- what came under a known UID with other content; never served
  id INTEGER PRIMARY KEY,
  uid TEXT NOT NULL, study_uid TEXT NOT NULL, path TEXT NOT NULL,
  digest BLOB NOT NULL, bytes INTEGER NOT NULL,
  reason TEXT NOT NULL, caller TEXT NOT NULL, origin TEXT NOT NULL, arrived_at REAL NOT NULL,
  UNIQUE (uid, digest)
) STRICT;

CREATE TABLE evicted (                  -- studies of which something went for space: not fetched again
  study_uid TEXT PRIMARY KEY,
  evicted_at REAL NOT NULL
) STRICT;

CREATE TABLE rejected (                 -- objects that a rejection note names: hidden while the note stands
  uid TEXT NOT NULL,
  note TEXT NOT NULL,                   -- SOP instance UID of the note
  study_uid TEXT NOT NULL,
  PRIMARY KEY (uid, note)
) STRICT;
CREATE INDEX rejected_by_note ON rejected(note);

CREATE TABLE doomed (                   -- files whose row is gone, until they are unlinked
  path TEXT PRIMARY KEY,
  not_before REAL NOT NULL DEFAULT 0    -- who began to read a file that was replaced may end
) STRICT;

CREATE TABLE compressed (               -- what compression has made of all that it replaced, for ever
  modality TEXT PRIMARY KEY,
  objects INTEGER NOT NULL, bytes_before INTEGER NOT NULL, bytes_after INTEGER NOT NULL
) STRICT;

CREATE TABLE commitments (              -- what modalities ask for, until its report is delivered
  id INTEGER PRIMARY KEY,
  transaction_uid TEXT NOT NULL,
  calling_ae TEXT NOT NULL, called_ae TEXT NOT NULL,
  objects TEXT NOT NULL,                -- JSON: [[SOP class UID, SOP instance UID], ...]
  asked_at REAL NOT NULL,
  UNIQUE (transaction_uid, calling_ae)
) STRICT;

CREATE TABLE totals (                   -- one row: what the archive holds
  only INTEGER PRIMARY KEY CHECK (only = 1),
  instances INTEGER NOT NULL, studies INTEGER NOT NULL, bytes INTEGER NOT NULL
) STRICT;
INSERT INTO totals VALUES (1, 0, 0, 0);

CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;  -- JSON: the last comparison
"""

# From each older version to the next one.
UPGRADES: Final = {
    1: """
ALTER TABLE instances ADD COLUMN state_since REAL;
CREATE INDEX instances_paid_off ON instances(state, arrived_at) WHERE state IN ('proven', 'deleted');
""",
    2: """
CREATE TABLE rejected (                 -- objects that a rejection note names: hidden while the note stands
  uid TEXT NOT NULL,
  note TEXT NOT NULL,                   -- SOP instance UID of the note
  study_uid TEXT NOT NULL,
  PRIMARY KEY (uid, note)
) STRICT;
CREATE INDEX rejected_by_note ON rejected(note);
""",
    3: """
ALTER TABLE instances ADD COLUMN compression TEXT;
ALTER TABLE instances ADD COLUMN arrived_digest BLOB;
ALTER TABLE instances ADD COLUMN arrived TEXT;
CREATE INDEX instances_to_compress ON instances(id)
  WHERE compression IS NULL AND state IN ('none', 'proven') AND proven_at IS NOT NULL;
ALTER TABLE doomed ADD COLUMN not_before REAL NOT NULL DEFAULT 0;
CREATE TABLE compressed (               -- what compression has made of all that it replaced, for ever
  modality TEXT PRIMARY KEY,
  objects INTEGER NOT NULL, bytes_before INTEGER NOT NULL, bytes_after INTEGER NOT NULL
) STRICT;
""",
    4: """
CREATE TABLE commitments (              -- what modalities ask for, until its report is delivered
  id INTEGER PRIMARY KEY,
  transaction_uid TEXT NOT NULL,
  calling_ae TEXT NOT NULL, called_ae TEXT NOT NULL,
  objects TEXT NOT NULL,                -- JSON: [[SOP class UID, SOP instance UID], ...]
  asked_at REAL NOT NULL,
  UNIQUE (transaction_uid, calling_ae)
) STRICT;
""",
    5: """
INSERT OR IGNORE INTO facts VALUES ('identity', json_quote(lower(hex(randomblob(16)))));
""",
    6: """
ALTER TABLE studies ADD COLUMN name_words TEXT NOT NULL DEFAULT '';  -- `dicom.fuzzy_names`
UPDATE studies SET name_words = name_words_of(attributes);  -- a function of `index`
DROP INDEX studies_by_date;
CREATE INDEX studies_by_date ON studies(date DESC, time DESC, id DESC,
  name_1, name_2, name_3, name_words, patient_id, accession, description, birth_date, sex);
CREATE INDEX instances_owed_compressed ON instances(arrived_at)
  WHERE state = 'owed' AND compression = 'done';
CREATE INDEX instances_owed_hidden ON instances(id) WHERE state = 'owed' AND hidden = 1;
""",
    7: """
DROP INDEX instances_owed_hidden;
CREATE INDEX instances_hidden ON instances(state, study) WHERE hidden = 1;
""",
}
