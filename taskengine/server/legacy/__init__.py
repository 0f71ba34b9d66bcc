"""Revisions with a handshake: 2025-11-25 with its core tasks, and 2025-06-18 and 2025-03-26 without.

A session is nothing but its id: version, capabilities and owner are sealed into it, so every front end serves every
session. So it is with all that must find its way back here: the id of a question names its task and key, the id of an
event names what its stream follows. What cannot be inside an id, that a session ended and its log level, is a row.

Streams of tasks keep nothing: whoever comes back is told how the task stands now, and gets the same response. A tool
that makes no task runs in one front end; its stream can be resumed there, for as long as that process lives. Other
front ends have its result from there, and pass on an answer that reaches them, through the database.
"""
