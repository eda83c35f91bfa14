//! Two sessions under virtual time.
