//! Connections. An enum and not a trait object, so that a socket stays one for `sendfile` and vectored writes.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use async_trait::async_trait;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, DuplexStream, Interest, ReadBuf},
    net::{TcpListener, TcpStream, tcp},
    sync::mpsc,
};

use super::DiskFile;

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

impl Connection {
    /// Both directions, each with an owner of its own. The writing half closes its direction when dropped.
    #[must_use]
    pub fn into_split(self) -> (ReadHalf, WriteHalf) {
        match self {
            Self::Tcp(stream) => {
                let (read, write) = stream.into_split();
                (ReadHalf::Tcp(read), WriteHalf::Tcp(write))
            }
            Self::Memory(stream) => {
                let (read, write) = tokio::io::split(stream);
                (ReadHalf::Memory(read), WriteHalf::Memory(write))
            }
        }
    }
}

/// The receiving direction of a connection.
#[derive(Debug)]
pub enum ReadHalf {
    /// Of a TCP socket.
    Tcp(tcp::OwnedReadHalf),
    /// Inside one process.
    Memory(tokio::io::ReadHalf<DuplexStream>),
}

/// The sending direction of a connection.
#[derive(Debug)]
pub enum WriteHalf {
    /// Of a TCP socket.
    Tcp(tcp::OwnedWriteHalf),
    /// Inside one process.
    Memory(tokio::io::WriteHalf<DuplexStream>),
}

/// What is copied at once where the kernel cannot send a file by itself.
const COPY_BYTES: usize = 64 << 10;

impl WriteHalf {
    /// Sends a part of a file, by the kernel alone where both ends permit it. Not cancel safe: a part may have been
    /// sent.
    ///
    /// # Errors
    /// As the system says; [`io::ErrorKind::UnexpectedEof`] if the file ends before.
    pub async fn send_file(&mut self, file: &dyn DiskFile, mut offset: u64, length: usize) -> io::Result<()> {
        let mut left = length;
        if let (Self::Tcp(half), true) = (&*self, file.descriptor().is_some()) {
            let socket: &TcpStream = half.as_ref();
            while left > 0 {
                socket.writable().await?;
                let sent = socket.try_io(Interest::WRITABLE, || {
                    let source = file.descriptor().ok_or(io::ErrorKind::Unsupported)?;
                    Ok(rustix::fs::sendfile(socket, source, Some(&mut offset), left)?)
                });
                match sent {
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(count) => left = left.saturating_sub(count),
                    Err(error) if retriable(&error) => {}
                    Err(error) => return Err(error),
                }
            }
            return Ok(());
        }
        let mut buffer = vec![0; left.min(COPY_BYTES)];
        while left > 0 {
            let step = left.min(buffer.len());
            let part = buffer.get_mut(..step).unwrap_or_default();
            if file.read_at(part, offset)? < step {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.write_all(part).await?;
            offset += step as u64;
            left -= step;
        }
        Ok(())
    }
}

fn retriable(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
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

impl AsyncRead for ReadHalf {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(half) => Pin::new(half).poll_read(cx, buffer),
            Self::Memory(half) => Pin::new(half).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for WriteHalf {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(half) => Pin::new(half).poll_write(cx, bytes),
            Self::Memory(half) => Pin::new(half).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(half) => Pin::new(half).poll_write_vectored(cx, slices),
            Self::Memory(half) => Pin::new(half).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(half) => half.is_write_vectored(),
            Self::Memory(half) => half.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(half) => Pin::new(half).poll_flush(cx),
            Self::Memory(half) => Pin::new(half).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(half) => Pin::new(half).poll_shutdown(cx),
            Self::Memory(half) => Pin::new(half).poll_shutdown(cx),
        }
    }
}
