//! The door for nodes: from HTTP to the hub.

use std::sync::Arc;

use axum::{
    RequestExt as _,
    extract::{Request, State, ws::WebSocketUpgrade},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use kakuremichi_core::code::Code;
use kakuremichi_proto::{frame::MAX_FRAME, version::SUBPROTOCOL};

use super::{App, extract::client_address, problem::Problem};

/// The bytes that are read from a socket at once. Most frames are small, there are many nodes, and what is
/// set aside here is set aside for each of them.
const READ_BUFFER: usize = 4 * 1024;
/// The most bytes that wait to be written; what exceeds it ends the connection.
const WRITE_BOUND: usize = 4 * MAX_FRAME;

/// Opens the link of a node.
///
/// A WebSocket with the subprotocol `kakuremichi.v1`, on which a node proves who it is. It carries
/// no JSON, and no credential of the REST API.
#[utoipa::path(get, path = "/api/v1/link", tag = "nodes", responses(
    (status = 101, description = "The WebSocket is open"),
    (status = 400, description = "This is no WebSocket handshake with the subprotocol", body = Problem),
    (status = 503, description = "Come back later", body = Problem),
))]
pub(super) async fn open(State(app): State<App>, mut request: Request) -> Response {
    let upgrade = request.extract_parts::<WebSocketUpgrade>().await;
    let Ok(upgrade) = upgrade else {
        return no_link("this is the link for nodes: a WebSocket");
    };
    let upgrade = upgrade.protocols([SUBPROTOCOL]);
    if upgrade.selected_protocol().is_none() {
        return no_link("the WebSocket needs the subprotocol `kakuremichi.v1`");
    }
    let Some(admitted) = app.hub.admit(client_address(request.extensions())) else {
        let detail = "there are too many connections that have not proven who they are, or Control is about to restart";
        return Problem::new(StatusCode::SERVICE_UNAVAILABLE, Code::TRY_LATER, detail).into_response();
    };
    let hub = Arc::clone(&app.hub);
    upgrade
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_write_buffer_size(WRITE_BOUND)
        .max_message_size(MAX_FRAME)
        .max_frame_size(MAX_FRAME)
        .on_upgrade(move |socket| hub.serve(socket, admitted))
}

fn no_link(detail: &str) -> Response {
    Problem::new(StatusCode::BAD_REQUEST, Code::REQUEST_INVALID, detail).into_response()
}
