use std::sync::Arc;

use rustls::{
    ClientConfig, ClientConnection, NamedGroup, ServerConfig, ServerConnection,
    crypto::{CryptoProvider, ring},
    pki_types::ServerName,
};

use super::default_provider;
use crate::streams::tls;

/// What this build's own provider agrees on with its like.
const OWN: NamedGroup = if cfg!(feature = "aws-lc-rs") {
    NamedGroup::X25519MLKEM768
} else {
    NamedGroup::X25519
};

/// Lets both ends talk in memory; returns the key exchange that each of them names.
fn agreed(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> (NamedGroup, NamedGroup) {
    let name = ServerName::try_from("gateway.example.net").unwrap();
    let mut client = ClientConnection::new(client, name).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets().unwrap();
        }
        let mut bytes = Vec::new();
        server.write_tls(&mut bytes).unwrap();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets().unwrap();
        }
    }
    (
        client.negotiated_key_exchange_group().unwrap().name(),
        server.negotiated_key_exchange_group().unwrap().name(),
    )
}

fn of_a_lane(agent: &CryptoProvider, gateway: &CryptoProvider) -> (NamedGroup, NamedGroup) {
    let client = tls::client_config(agent, tls::LANE).unwrap();
    agreed(client, tls::server_configs(gateway).unwrap().direct)
}

#[test]
fn a_lane_has_the_hybrid_key_exchange_where_both_ends_have_it() {
    let (own, ring) = (default_provider(), ring::default_provider());
    assert_eq!(of_a_lane(&own, &own), (OWN, OWN));
    let classical = (NamedGroup::X25519, NamedGroup::X25519);
    assert_eq!(of_a_lane(&own, &ring), classical);
    assert_eq!(of_a_lane(&ring, &own), classical);
}
