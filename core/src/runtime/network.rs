//! Connections. An enum and not a trait object, so that a socket stays one for `sendfile` and vectored writes.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use async_trait::async_trait;
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

/// The network of one node.
#[async_trait]
pub trait Network: Send + Sync + 'static {
    /// Connects to `host:port`.
    ///
    /// # Errors
    /// As the system says. No deadline: the caller sets one.
    async fn connect(&self, endpoint: &str) -> io::Result<Connection>;

    /// Binds `address`; connections are accepted into a backlog from then on. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// As the system says: the address is in use, or not of this machine.
    fn listen(&self, address: SocketAddr) -> io::Result<Listener>;
}

/// A stream of bytes to somebody.
#[derive(Debug)]
pub enum Connection {
    /// A TCP socket.
    Tcp(TcpStream),
    /// Inside one process, for simulation.
    Memory(DuplexStream),
}

/// Accepts connections.
#[derive(Debug)]
pub enum Listener {
    /// A TCP socket.
    Tcp(TcpListener),
    /// Inside one process, for simulation: the connection and its peer's address.
    Memory(mpsc::Receiver<(Connection, SocketAddr)>, SocketAddr),
}

impl Listener {
    /// The next connection and where it comes from. Cancel safe.
    ///
    /// # Errors
    /// As the system says, for example when descriptors have run out; the listener stays usable.
    /// [`io::ErrorKind::BrokenPipe`] once a simulated listener has closed.
    pub async fn accept(&mut self) -> io::Result<(Connection, SocketAddr)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok((Connection::Tcp(stream), peer))
            }
            Self::Memory(incoming, _) => incoming.recv().await.ok_or(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// The bound address; its port is the real one where 0 was asked for.
    ///
    /// # Errors
    /// As the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr(),
            Self::Memory(_, address) => Ok(*address),
        }
    }
}

/// The machine's network.
#[derive(Clone, Copy, Debug)]
pub struct RealNetwork;

/// Connections that wait to be accepted; the system caps it (`net.core.somaxconn`).
const BACKLOG: i32 = 1024;

#[async_trait]
impl Network for RealNetwork {
    async fn connect(&self, endpoint: &str) -> io::Result<Connection> {
        let stream = TcpStream::connect(endpoint).await?;
        stream.set_nodelay(true)?;
        Ok(Connection::Tcp(stream))
    }

    fn listen(&self, address: SocketAddr) -> io::Result<Listener> {
        let domain = socket2::Domain::for_address(address);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(Listener::Tcp(TcpListener::from_std(socket.into())?))
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Memory(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Memory(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Memory(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Memory(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Memory(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Memory(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
