"""The tables of the ledger: what each version adds to the one before it. A released step is never edited.

A home is brought up to date in one transaction as it is opened (`store._prepare`). A further version is one step more.
"""

_FIRST = """
CREATE TABLE stage (
    key TEXT PRIMARY KEY, name TEXT NOT NULL, state TEXT NOT NULL CHECK (state IN ('running', 'done', 'failed')),
    config TEXT NOT NULL, inputs TEXT NOT NULL, digest TEXT, outputs TEXT, message TEXT,
    owner TEXT, started REAL NOT NULL, finished REAL, seconds REAL, attempts INTEGER NOT NULL DEFAULT 1
) STRICT;
CREATE TABLE run (
    id TEXT PRIMARY KEY, stage_key TEXT, kind TEXT NOT NULL, config TEXT NOT NULL, folder TEXT NOT NULL,
    state TEXT NOT NULL, started REAL NOT NULL, finished REAL, metrics TEXT
) STRICT;
CREATE TABLE artifact (
    digest TEXT PRIMARY KEY, kind TEXT NOT NULL, path TEXT NOT NULL, lineage TEXT NOT NULL, metrics TEXT NOT NULL,
    created REAL NOT NULL
) STRICT;
CREATE TABLE alias (
    name TEXT PRIMARY KEY CHECK (name IN ('champion', 'challenger', 'previous')),
    digest TEXT NOT NULL REFERENCES artifact(digest)
) STRICT;
CREATE TABLE decision (
    id INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, kind TEXT NOT NULL, verdict TEXT NOT NULL,
    digest TEXT, previous TEXT, actor TEXT NOT NULL, numbers TEXT NOT NULL
) STRICT;
CREATE TABLE wish (
    id INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, kind TEXT NOT NULL, args TEXT NOT NULL, actor TEXT NOT
    NULL, state TEXT NOT NULL CHECK (state IN ('pending', 'done', 'failed')), result TEXT
) STRICT;
CREATE TABLE api_key (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, scopes TEXT NOT NULL, salt BLOB NOT NULL, hash BLOB NOT NULL,
    created REAL NOT NULL, revoked REAL
) STRICT;
CREATE TABLE gauge (
    name TEXT NOT NULL, labels TEXT NOT NULL, value REAL NOT NULL, time REAL NOT NULL, PRIMARY KEY (name, labels)
) STRICT;
CREATE TABLE event (
    id INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, kind TEXT NOT NULL, data TEXT NOT NULL
) STRICT;
CREATE TABLE setting (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
"""

# Answers of a task's model, and what turned out to be true. `told` rises with every truth: who reads on remembers it.
_ANSWERS = """
CREATE TABLE answer (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, time REAL NOT NULL, digest TEXT NOT NULL,
    request TEXT NOT NULL, answer TEXT NOT NULL, observed TEXT NOT NULL, truth TEXT, error REAL, told REAL UNIQUE,
    key TEXT NOT NULL DEFAULT ''
) STRICT;
"""

STEPS = (_FIRST, _ANSWERS)
SCHEMA_VERSION = len(STEPS)
