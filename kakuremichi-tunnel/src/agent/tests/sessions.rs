use kakuremichi_core::{id::GatewayId, model::TargetAddress};
use tempfile::TempDir;
use tokio::net::UdpSocket;

use super::*;
use crate::{
    agent::{FlowDenial, Service, ServiceError},
    error::ExposeError,
    session::TunnelSession,
};

async fn target() -> (UdpSocket, TargetAddress) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap().to_string().parse().unwrap();
    (socket, TargetAddress::Udp(address))
}

async fn receive(session: &mut TunnelSession) -> Vec<u8> {
    let mut buffer = vec![0; 65_535];
    let length = soon(session.recv(&mut buffer)).await.unwrap();
    buffer.truncate(length);
    buffer
}

async fn refused(session: &TunnelSession, times: u64) {
    soon(async {
        while session.refusals() < times {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_visitor_reaches_a_udp_listener_in_this_process() {
    let temp = TempDir::new().unwrap();
    let (agent, gate) = pair(temp.path(), &[Planned::udp(7, TargetAddress::InProcess)]).await;
    let wrong = agent.expose(Service::udp(7)).await;
    assert!(matches!(
        wrong,
        Err(ExposeError::Invalid(ServiceError::Datagrams))
    ));
    let wrong = agent.expose_udp(Service::tcp(7)).await;
    assert!(matches!(wrong, Err(ExposeError::Invalid(ServiceError::Streams))));
    let mut listener = soon(agent.expose_udp(Service::udp(7).public())).await.unwrap();
    assert_eq!(listener.url(), "udp://*:7");
    assert_eq!(listener.service(), Some(service_id(7)));
    let mut visitor = gate.open_udp(port(7), &Gate::preface(7)).await;
    visitor.try_send(b"question").unwrap();
    let mut session = soon(listener.accept()).await.unwrap();
    assert_eq!(session.visitor().source(), Gate::preface(7).source);
    assert_eq!(session.visitor().service(), service_id(7));
    let mut buffer = [0; 100];
    let length = soon(session.recv(&mut buffer)).await.unwrap();
    assert_eq!(&buffer[..length], b"question");
    session.try_send(b"answer").unwrap();
    assert_eq!(receive(&mut visitor).await, b"answer");
    // What the program lets go of is refused, and comes again as another session.
    drop(session);
    soon(async {
        loop {
            visitor.try_send(b"again").unwrap();
            tokio::select! {
                accepted = listener.accept() => break drop(accepted.unwrap()),
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
        }
    })
    .await;
}

#[tokio::test]
async fn each_visitor_has_a_socket_of_its_own_toward_the_target() {
    let temp = TempDir::new().unwrap();
    let (server, address) = target().await;
    let (agent, gate) = pair(temp.path(), &[Planned::udp(7, address)]).await;
    let text = server.local_addr().unwrap().to_string();
    let forward = soon(agent.forward(Service::udp(7), &text)).await.unwrap();
    assert_eq!(forward.service(), Some(service_id(7)));
    let mut seen = Vec::new();
    for number in 0..3_u8 {
        let mut preface = Gate::preface(7);
        preface.connection.0[0] = number;
        let mut visitor = gate.open_udp(port(7), &preface).await;
        for length in [0, 1, 1_300, 9_000] {
            let data = vec![number; length];
            visitor.try_send(&data).unwrap();
            let mut buffer = vec![0; 65_535];
            let (length, from) = soon(server.recv_from(&mut buffer)).await.unwrap();
            assert_eq!(&buffer[..length], data);
            server.send_to(&buffer[..length], from).await.unwrap();
            assert_eq!(receive(&mut visitor).await, data);
            if !seen.contains(&from) {
                seen.push(from);
            }
        }
        assert_eq!(seen.len(), usize::from(number) + 1);
    }
}

/// DESIGN section 6: the agent answers port unreachable when the target refuses, and is asked anew.
#[tokio::test]
async fn a_target_that_refuses_is_told_and_one_that_comes_is_found() {
    let temp = TempDir::new().unwrap();
    let (server, address) = target().await;
    let at = server.local_addr().unwrap();
    drop(server);
    let (_agent, gate) = pair(temp.path(), &[Planned::udp(7, address)]).await;
    let mut visitor = gate.open_udp(port(7), &Gate::preface(7)).await;
    visitor.try_send(b"anybody?").unwrap();
    refused(&visitor, 1).await;
    let server = UdpSocket::bind(at).await.unwrap();
    visitor.try_send(b"now?").unwrap();
    let mut buffer = [0; 100];
    let (length, from) = soon(server.recv_from(&mut buffer)).await.unwrap();
    assert_eq!(&buffer[..length], b"now?");
    server.send_to(b"yes", from).await.unwrap();
    assert_eq!(receive(&mut visitor).await, b"yes");
}

/// LESSONS, advisories 13 and 14.
#[tokio::test]
async fn only_sessions_of_the_plan_are_served() {
    let temp = TempDir::new().unwrap();
    let (_server, address) = target().await;
    let services = [
        Planned::udp(7, address),
        Planned::tcp(8, TargetAddress::InProcess),
    ];
    let (agent, gate) = pair(temp.path(), &services).await;
    let mut events = agent.events();
    let mut stranger = Gate::preface(7);
    stranger.gateway = GatewayId::from_bytes([9; 16]);
    for (preface, denial) in [
        (stranger, FlowDenial::Gateway),
        (Gate::preface(8), FlowDenial::Service),
    ] {
        let visitor = gate.open_udp(port(7), &preface).await;
        visitor.try_send(b"x").unwrap();
        refused(&visitor, 1).await;
        let seen = find(&mut events, |event| match event {
            AgentEvent::Denied { denial, .. } => Some(denial),
            _ => None,
        });
        assert_eq!(seen.await, denial);
    }
    // The port of a TCP service is none of UDP.
    let visitor = gate.open_udp(port(8), &Gate::preface(8)).await;
    visitor.try_send(b"x").unwrap();
    refused(&visitor, 1).await;
}
