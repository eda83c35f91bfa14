use kakuremichi_core::{auth::Principal, id::GatewayId, model::TargetAddress};
use kakuremichi_proto::{flow::FlowReply, preface::TlsFacts};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, UnixListener},
};

use super::*;
use crate::{
    agent::{BACKLOG, FlowDenial, Service},
    link::{LinkEnd, PlanSource, SetupError, SourceFuture, Supply},
};

fn tcp(listener: &TcpListener) -> TargetAddress {
    let address = listener.local_addr().unwrap().to_string();
    TargetAddress::Tcp(address.parse().unwrap())
}

#[tokio::test]
async fn a_visitor_reaches_a_listener_in_this_process() {
    let temp = TempDir::new().unwrap();
    let (agent, gate) = pair(temp.path(), &[Planned::http(7, "a.example")]).await;
    // The plan has it: nobody has to be asked.
    let mut listener = soon(agent.expose(Service::http("a.example").public()))
        .await
        .unwrap();
    assert_eq!(listener.url(), "https://a.example:8443/");
    assert_eq!(listener.service(), Some(service_id(7)));
    let mut preface = Gate::preface(7);
    preface.principal = Some(Principal::new("basic", "alice"));
    preface.tls = Some(TlsFacts {
        version: "TLSv1.3".to_owned(),
        ..TlsFacts::default()
    });
    let mut visitor = gate.open(port(7), &preface).await;
    visitor.write_all(b"question").await.unwrap();
    visitor.shutdown().await.unwrap();
    let mut stream = soon(listener.accept()).await.unwrap();
    assert_eq!(stream.visitor().source(), preface.source);
    assert_eq!(stream.visitor().destination(), preface.destination);
    assert_eq!(stream.visitor().principal(), preface.principal.as_ref());
    assert_eq!(stream.visitor().tls().unwrap().version, "TLSv1.3");
    assert_eq!(stream.visitor().gateway(), gateway_id());
    // The visitor's direction has ended, ours has not (LESSONS: "EOF in one direction closes both").
    let mut asked = String::new();
    soon(stream.read_to_string(&mut asked)).await.unwrap();
    assert_eq!(asked, "question");
    stream.write_all(b"answer").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answered = String::new();
    soon(visitor.read_to_string(&mut answered)).await.unwrap();
    assert_eq!(answered, "answer");
}

#[tokio::test]
async fn a_visitor_reaches_targets_outside() {
    let temp = TempDir::new().unwrap();
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let path = temp.path().join("app.sock");
    let unix = UnixListener::bind(&path).unwrap();
    let services = [
        Planned::tcp(7, tcp(&server)),
        Planned::tcp(8, TargetAddress::Unix(path.clone())),
    ];
    let (agent, gate) = pair(&temp.path().join("state"), &services).await;
    let target = server.local_addr().unwrap().to_string();
    let forward = soon(agent.forward(Service::tcp(7), &target)).await.unwrap();
    assert_eq!(forward.service(), Some(service_id(7)));
    let mut visitor = gate.visit(7).await;
    let (mut socket, _) = soon(server.accept()).await.unwrap();
    half_closed_talk(&mut visitor, &mut socket).await;
    let forward = soon(agent.forward(Service::tcp(8), &format!("unix:{}", path.display())))
        .await
        .unwrap();
    assert_eq!(forward.service(), Some(service_id(8)));
    let mut visitor = gate.visit(8).await;
    let (mut socket, _) = soon(unix.accept()).await.unwrap();
    half_closed_talk(&mut visitor, &mut socket).await;
}

/// The visitor speaks and ends its direction; the target answers then.
async fn half_closed_talk<S>(visitor: &mut crate::stream::TunnelStream, target: &mut S)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    visitor.write_all(b"question").await.unwrap();
    visitor.shutdown().await.unwrap();
    let mut asked = String::new();
    soon(target.read_to_string(&mut asked)).await.unwrap();
    assert_eq!(asked, "question");
    target.write_all(b"answer").await.unwrap();
    target.shutdown().await.unwrap();
    let mut answered = String::new();
    soon(visitor.read_to_string(&mut answered)).await.unwrap();
    assert_eq!(answered, "answer");
}

/// LESSONS, advisories 13 and 14.
#[tokio::test]
async fn only_flows_of_the_plan_are_served_and_the_others_hear_why() {
    let temp = TempDir::new().unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let services = [
        Planned::http(7, "a.example"),
        Planned::tcp(8, tcp(&closed)),
        Planned::tcp(9, TargetAddress::Unix("/nonexistent/socket".into())),
    ];
    drop(closed);
    let (agent, gate) = pair(temp.path(), &services).await;
    let mut events = agent.events();
    let mut foreign = Gate::preface(7);
    foreign.gateway = GatewayId::from_bytes([3; 16]);
    for (number, preface) in [(7, Gate::preface(8)), (8, Gate::preface(7)), (7, foreign)] {
        assert_eq!(gate.refusal(port(number), &preface).await, FlowReply::Denied);
    }
    let denied = find(&mut events, |event| match event {
        AgentEvent::Denied { denial, gateway } => Some((denial, gateway)),
        _ => None,
    });
    assert_eq!(denied.await, (FlowDenial::Service, Some(gateway_id())));
    // Nobody listens in this process.
    assert_eq!(gate.refusal(port(7), &Gate::preface(7)).await, FlowReply::Unknown);
    assert_eq!(gate.refusal(port(8), &Gate::preface(8)).await, FlowReply::Refused);
    assert_eq!(
        gate.refusal(port(9), &Gate::preface(9)).await,
        FlowReply::Unreachable
    );
}

/// A source whose plan changes.
#[derive(Debug)]
struct Changing(tokio::sync::watch::Receiver<AgentPlan>);

impl PlanSource<AgentRecord> for Changing {
    fn open(&self, supply: Supply<AgentRecord>) -> Result<SourceFuture, SetupError> {
        let mut plans = self.0.clone();
        Ok(Box::pin(async move {
            loop {
                supply.publish(plans.borrow_and_update().clone());
                tokio::select! {
                    changed = plans.changed() => if changed.is_err() {
                        return LinkEnd::Stopped;
                    },
                    () = supply.stopping() => return LinkEnd::Stopped,
                }
            }
        }))
    }
}

/// DESIGN invariant 5; LESSONS, advisories 13 and 14: what was admitted is judged again.
#[tokio::test]
async fn a_flow_that_the_plan_does_not_allow_any_more_is_closed() {
    let temp = TempDir::new().unwrap();
    let state = StateDir::open(temp.path()).unwrap();
    let gate = Gate::start(&state.keys().unwrap());
    let moved = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stays = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let made = |revision, services: &[Planned]| plan(revision, gate.key(), &[&gate.endpoint()], services);
    let before = [
        Planned::http(7, "a.example"),
        Planned::tcp(8, tcp(&moved)),
        Planned::tcp(9, tcp(&stays)),
    ];
    let (plans, source) = tokio::sync::watch::channel(made(1, &before));
    let agent = Agent::with_source(Changing(source))
        .state(state)
        .spawn()
        .await
        .unwrap();
    soon(gate.online()).await;
    let mut listener = soon(agent.expose(Service::http("a.example"))).await.unwrap();
    let mut inside = gate.visit(7).await;
    let mut stream = soon(listener.accept()).await.unwrap();
    let mut outside = gate.visit(8).await;
    let (mut socket, _) = soon(moved.accept()).await.unwrap();
    let mut other = gate.visit(9).await;
    let (mut untouched, _) = soon(stays.accept()).await.unwrap();
    let elsewhere = TargetAddress::Tcp("127.0.0.1:9".parse().unwrap());
    let after = [Planned::tcp(8, elsewhere), Planned::tcp(9, tcp(&stays))];
    plans.send(made(2, &after)).unwrap();
    let error = soon(stream.read(&mut [0; 1])).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionAborted, "{error}");
    assert!(stream.write_all(b"x").await.is_err());
    drop(stream);
    assert!(soon(inside.read(&mut [0; 1])).await.is_err());
    assert!(soon(outside.read(&mut [0; 1])).await.is_err());
    assert!(!matches!(soon(socket.read(&mut [0; 1])).await, Ok(1..)));
    half_closed_talk(&mut other, &mut untouched).await;
}

/// LESSONS: "one slow listener stalls every tunnel"; "a connection not accepted within a second is
/// dropped".
#[tokio::test]
async fn a_slow_listener_delays_nobody_and_is_bounded() {
    let temp = TempDir::new().unwrap();
    let services = [Planned::http(7, "slow.example"), Planned::http(8, "fast.example")];
    let (agent, gate) = pair(temp.path(), &services).await;
    let mut slow = soon(agent.expose(Service::http("slow.example"))).await.unwrap();
    let mut fast = soon(agent.expose(Service::http("fast.example"))).await.unwrap();
    let mut waiting = Vec::new();
    for _ in 0..BACKLOG {
        waiting.push(gate.visit(7).await);
    }
    assert_eq!(
        gate.refusal(port(7), &Gate::preface(7)).await,
        FlowReply::Overloaded
    );
    assert_eq!(slow.overflowed(), 1);
    let _visitor = gate.visit(8).await;
    soon(fast.accept()).await.unwrap();
    for _ in 0..BACKLOG {
        soon(slow.accept()).await.unwrap();
    }
}

#[cfg(feature = "axum")]
#[tokio::test]
async fn axum_serves_from_a_listener() {
    use crate::agent::Visitor;
    use axum::{Router, extract::ConnectInfo, routing::get};

    let temp = TempDir::new().unwrap();
    let (agent, gate) = pair(temp.path(), &[Planned::http(7, "a.example")]).await;
    let listener = soon(agent.expose(Service::http("a.example").public()))
        .await
        .unwrap();
    let who =
        |ConnectInfo(visitor): ConnectInfo<Visitor>| async move { format!("hello {}", visitor.source()) };
    let app = Router::new()
        .route("/", get(who))
        .into_make_service_with_connect_info::<Visitor>();
    let server = tokio::spawn(async move { axum::serve(listener, app).await });
    let mut visitor = gate.visit(7).await;
    let request = b"GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n";
    visitor.write_all(request).await.unwrap();
    let mut answer = String::new();
    soon(visitor.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("hello 198.51.100.7:40000"), "{answer}");
    // An axum listener cannot end: it pends.
    drop(agent);
    assert!(timeout(Duration::from_millis(200), server).await.is_err());
}
