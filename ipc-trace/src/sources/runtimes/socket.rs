//! Connections that take no more than a runtime has to say. A response is collected until it can be
//! understood, so one without end would fill the memory.

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

use super::ANSWER;

/// Bytes that a connection may bring: tens of thousands of containers or events. Who has more to say
/// is asked again.
const MOST: usize = 64 << 20;

/// A client of Docker's API on a socket. Nothing is sent yet.
pub(super) fn client(path: PathBuf) -> Result<Docker, Error> {
    let transport = move |request| send(path.clone(), request);
    Docker::connect_with_custom_transport(
        transport,
        Some("http://localhost"),
        ANSWER.as_secs(),
        API_DEFAULT_VERSION,
    )
}

/// Connects to a socket.
pub(super) async fn connect(path: PathBuf) -> io::Result<TokioIo<Bounded>> {
    let stream = UnixStream::connect(path).await?;
    Ok(TokioIo::new(Bounded { stream, left: MOST }))
}

/// Sends a request by a connection of its own.
async fn send(path: PathBuf, mut request: BollardRequest) -> Result<Response<Incoming>, Error> {
    let io = connect(path).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
    tokio::spawn(connection);
    // As the connection leads to one server alone, it gets no more than the path.
    if let Some(path) = request.uri().path_and_query().map(|path| path.as_str().to_owned())
        && let Ok(uri) = path.parse::<Uri>()
    {
        *request.uri_mut() = uri;
    }
    request.headers_mut().insert(HOST, HeaderValue::from_static("localhost"));
    Ok(sender.send_request(request).await?)
}

/// A stream that ends with an error when it has brought too much.
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
            None => Poll::Ready(Err(io::Error::other("it says more than it can have to say"))),
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
