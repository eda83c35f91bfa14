//! The other end of every node's control link.
//!
//! (Being written by another helper than the one who writes service/ and api/: see /tmp/km/TEAM.md, "12:45".)
