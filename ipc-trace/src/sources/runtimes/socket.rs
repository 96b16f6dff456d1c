//! Connections with bounded responses. A response is collected until it can be parsed, so an endless one would fill
//! the memory.

use std::{
    io,
    path::PathBuf,
    pin::Pin,
    task::{Context, Poll},
};

use bollard::{API_DEFAULT_VERSION, BollardRequest, Docker, errors::Error};
use hyper::{
    Response, Uri,
    body::Incoming,
    header::{HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
};

use super::ANSWER_TIMEOUT;

/// The largest number of bytes that a connection may receive: tens of thousands of containers or events. The rest is
/// requested again.
const MAX_CONNECTION_BYTES: usize = 64 << 20;

/// A client of Docker's API on a socket. It sends nothing yet.
pub(super) fn client(path: PathBuf) -> Result<Docker, Error> {
    let transport = move |request| send(path.clone(), request);
    Docker::connect_with_custom_transport(
        transport,
        Some("http://localhost"),
        ANSWER_TIMEOUT.as_secs(),
        API_DEFAULT_VERSION,
    )
}

/// Connects to a socket.
pub(super) async fn connect(path: PathBuf) -> io::Result<TokioIo<Bounded>> {
    let stream = UnixStream::connect(path).await?;
    Ok(TokioIo::new(Bounded { stream, left: MAX_CONNECTION_BYTES }))
}

/// Sends a request on a connection of its own.
async fn send(path: PathBuf, mut request: BollardRequest) -> Result<Response<Incoming>, Error> {
    let io = connect(path).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
    tokio::spawn(connection);
    // The connection leads to one server only, so the request contains only the path.
    if let Some(path) = request.uri().path_and_query().map(|path| path.as_str().to_owned())
        && let Ok(uri) = path.parse::<Uri>()
    {
        *request.uri_mut() = uri;
    }
    request.headers_mut().insert(HOST, HeaderValue::from_static("localhost"));
    Ok(sender.send_request(request).await?)
}

/// A stream that fails after too many bytes.
#[derive(Debug)]
pub(super) struct Bounded {
    stream: UnixStream,
    left: usize,
}

impl AsyncRead for Bounded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        let read = buffer.filled().len() - before;
        match self.left.checked_sub(read) {
            Some(left) => {
                self.left = left;
                polled
            }
            None => Poll::Ready(Err(io::Error::other("the response is too long"))),
        }
    }
}

impl AsyncWrite for Bounded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
