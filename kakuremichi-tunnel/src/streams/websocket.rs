//! The bytes of a connection inside a WebSocket (RFC 6455): for networks that let nothing else through.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_util::{SinkExt as _, StreamExt as _};
use kakuremichi_proto::lane::record::{HEADER, MAX_DATA};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{self, Bytes, Message, protocol::WebSocketConfig},
};

/// The most bytes of one message: a record of data fills one.
const MESSAGE: usize = HEADER + MAX_DATA;
/// The most bytes that wait to be written; what exceeds it waits with who writes it.
const WRITE_BOUND: usize = 4 * MESSAGE;

/// Why there is no WebSocket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum WebSocketError {
    /// Something answered, but not with a WebSocket.
    #[cfg(feature = "agent")]
    #[error("the gateway's address answered with HTTP status {0} instead of a WebSocket")]
    Http(u16),
    /// What answers does not speak WebSocket, or not for lanes.
    #[error("the other end does not speak WebSocket for lanes: {0}")]
    Protocol(#[source] Box<tungstenite::Error>),
    /// The address cannot stand in a request.
    #[cfg(feature = "agent")]
    #[error("the gateway's address cannot stand in a request")]
    Uri,
}

/// A stream of bytes in binary messages.
#[derive(Debug)]
pub(crate) struct WebSocketIo<T> {
    socket: WebSocketStream<T>,
    /// Of the message that is being read.
    rest: Bytes,
}

fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(16 * 1024)
        .write_buffer_size(0)
        .max_write_buffer_size(WRITE_BOUND)
        .max_message_size(Some(2 * MESSAGE))
        .max_frame_size(Some(2 * MESSAGE))
}

impl<T> WebSocketIo<T> {
    fn new(socket: WebSocketStream<T>) -> Self {
        Self {
            socket,
            rest: Bytes::new(),
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocketIo<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(self.socket.poll_next_unpin(cx)) {
                Some(Ok(Message::Binary(message))) => self.rest = message,
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                Some(Ok(Message::Text(_) | Message::Frame(_))) => {
                    return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                }
                Some(Err(error)) => return Poll::Ready(Err(failed(error))),
            }
        }
        let length = self.rest.len().min(out.remaining());
        out.put_slice(&self.rest.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocketIo<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        ready!(self.socket.poll_ready_unpin(cx)).map_err(failed)?;
        let message = Bytes::copy_from_slice(&data[..data.len().min(MESSAGE)]);
        let length = message.len();
        let sent = self.socket.start_send_unpin(Message::Binary(message));
        Poll::Ready(sent.map(|()| length).map_err(failed))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_flush_unpin(cx).map_err(failed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_close_unpin(cx).map_err(failed)
    }
}

fn failed(error: tungstenite::Error) -> io::Error {
    match error {
        tungstenite::Error::Io(error) => error,
        error => io::Error::other(error),
    }
}

#[cfg(feature = "agent")]
pub(crate) use client::ask;

#[cfg(feature = "agent")]
mod client {
    use kakuremichi_proto::lane::record::{WEBSOCKET_PATH, WEBSOCKET_PROTOCOL};
    use tokio::io::{AsyncRead, AsyncWrite};
    use tokio_tungstenite::{
        client_async_with_config,
        tungstenite::{self, ClientRequestBuilder, http::Uri},
    };

    use super::{WebSocketError, WebSocketIo, config};

    /// The agent's part of the handshake; `authority` is the gateway's address.
    pub(crate) async fn ask<T>(stream: T, authority: &str) -> Result<WebSocketIo<T>, WebSocketError>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let uri = format!("wss://{authority}{WEBSOCKET_PATH}");
        let uri = uri.parse::<Uri>().map_err(|_| WebSocketError::Uri)?;
        let request = ClientRequestBuilder::new(uri).with_sub_protocol(WEBSOCKET_PROTOCOL);
        match client_async_with_config(request, stream, Some(config())).await {
            Ok((socket, _)) => Ok(WebSocketIo::new(socket)),
            Err(tungstenite::Error::Http(answer)) => Err(WebSocketError::Http(answer.status().as_u16())),
            Err(error) => Err(WebSocketError::Protocol(Box::new(error))),
        }
    }
}

#[cfg(feature = "gateway")]
pub(crate) use server::answer;

#[cfg(feature = "gateway")]
mod server {
    use kakuremichi_proto::lane::record::{WEBSOCKET_PATH, WEBSOCKET_PROTOCOL};
    use tokio_tungstenite::{
        accept_hdr_async_with_config,
        tungstenite::{
            handshake::server::{ErrorResponse, Request, Response},
            http::{HeaderValue, StatusCode, header::SEC_WEBSOCKET_PROTOCOL},
        },
    };

    use super::*;

    /// The gateway's part of the handshake.
    pub(crate) async fn answer<T>(stream: T) -> Result<WebSocketIo<T>, WebSocketError>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let socket = accept_hdr_async_with_config(stream, checked, Some(config())).await;
        match socket {
            Ok(socket) => Ok(WebSocketIo::new(socket)),
            Err(error) => Err(WebSocketError::Protocol(Box::new(error))),
        }
    }

    /// Takes only what asks for a lane.
    #[expect(clippy::result_large_err, reason = "the library asks for it")]
    fn checked(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
        let offered = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL).iter();
        let lane = offered
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|protocol| protocol.trim() == WEBSOCKET_PROTOCOL);
        if !lane || request.uri().path() != WEBSOCKET_PATH {
            let mut refusal = ErrorResponse::new(None);
            *refusal.status_mut() = StatusCode::NOT_FOUND;
            return Err(refusal);
        }
        let protocol = HeaderValue::from_static(WEBSOCKET_PROTOCOL);
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, protocol);
        Ok(response)
    }
}
