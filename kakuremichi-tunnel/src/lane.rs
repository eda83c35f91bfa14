//! Whether the path to a peer works.
