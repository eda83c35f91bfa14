//! Control's end of the link, spoken to over real WebSockets by the protocol's own client session.

#[cfg(test)]
mod hub {
    pub(crate) mod node;
    pub(crate) mod store;
    pub(crate) mod world;

    mod declare;
    mod enrol;
    mod plans;
    mod reports;
    mod rotation;
    mod rough;
    mod sessions;
}
