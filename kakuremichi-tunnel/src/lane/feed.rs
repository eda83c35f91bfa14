//! What an agent tells its gateways about its targets.
