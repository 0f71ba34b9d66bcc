"""Protocol revisions, a module each: translation between wire messages and the engine's records. No I/O."""
