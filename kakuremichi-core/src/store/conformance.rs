//! The suite that every implementation of [`Store`](super::Store) must pass.
