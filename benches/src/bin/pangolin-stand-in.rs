//! Plays the part of Pangolin's server for one newt: hands out a token, tells it of one exit node, and joins it to
//! a WireGuard device of the namespace that this program runs in.
//!
//! `pangolin-stand-in ADDRESS DEVICE PUBLIC-KEY SERVER-IP TUNNEL-IP PORT:TARGET ...`

use std::{io, net::SocketAddr, process::Command, sync::Arc};

use axum::{
    Json, Router,
    extract::{
        State,
        ws::{Message, WebSocket, WebSocketUpgrade},
    },
    response::Response,
    routing::{get, post},
};
use serde_json::{Value, json};

/// What this server knows.
struct Site {
    address: SocketAddr,
    device: String,
    public_key: String,
    server_ip: String,
    tunnel_ip: String,
    targets: Vec<String>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let mut words = std::env::args().skip(1);
    let mut word = || {
        let usage = "usage: pangolin-stand-in ADDRESS DEVICE PUBLIC-KEY SERVER-IP TUNNEL-IP PORT:TARGET ...";
        words.next().ok_or_else(|| io::Error::other(usage))
    };
    let site = Site {
        address: word()?.parse().map_err(io::Error::other)?,
        device: word()?,
        public_key: word()?,
        server_ip: word()?,
        tunnel_ip: word()?,
        targets: words.collect(),
    };
    let listener = tokio::net::TcpListener::bind(site.address).await?;
    let token = || async {
        Json(
            json!({ "success": true, "message": "", "data": { "token": "bench", "serverVersion": "1.13.0" } }),
        )
    };
    let router = Router::new()
        .route("/api/v1/auth/newt/get-token", post(token))
        .route("/ping", get(|| async { "pong" }))
        .route("/api/v1/ws", get(upgrade))
        .with_state(Arc::new(site));
    axum::serve(listener, router).await
}

async fn upgrade(State(site): State<Arc<Site>>, upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(async move |socket| serve(&site, socket).await)
}

async fn serve(site: &Site, mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        let asked = message
            .to_text()
            .ok()
            .and_then(|text| serde_json::from_str(text).ok());
        let asked: Value = asked.unwrap_or_default();
        if let Some(answer) = answer(site, &asked)
            && socket.send(Message::text(answer.to_string())).await.is_err()
        {
            return;
        }
    }
}

fn answer(site: &Site, asked: &Value) -> Option<Value> {
    let data = &asked["data"];
    let chain = &data["chainId"];
    match asked["type"].as_str()? {
        "newt/ping/request" => Some(json!({ "type": "newt/ping/exitNodes", "data": {
            "chainId": chain,
            "exitNodes": [{
                "exitNodeId": 1, "exitNodeName": "gerbil", "weight": 1.0, "wasPreviouslyConnected": false,
                "endpoint": format!("http://{}", site.address),
            }],
        } })),
        "newt/wg/register" if data["backwardsCompatible"] != true => {
            let key = data["publicKey"].as_str()?;
            let allowed = format!("{}/32", site.tunnel_ip);
            let joined = Command::new("wg")
                .args(["set", &site.device, "peer", key, "allowed-ips", &allowed])
                .status();
            if !joined.is_ok_and(|status| status.success()) {
                return None;
            }
            Some(json!({ "type": "newt/wg/connect", "data": {
                "chainId": chain,
                "endpoint": format!("{}:51820", site.address.ip()),
                "publicKey": site.public_key,
                "serverIP": site.server_ip,
                "tunnelIP": site.tunnel_ip,
                "targets": { "tcp": site.targets, "udp": [] },
            } }))
        }
        _ => None,
    }
}
