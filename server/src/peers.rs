//! The controller's listener carries two languages: Kafka's, and the consensus backend's, whose first byte no length
//! of a Kafka request has.

use std::{net::SocketAddr, time::Duration};

use quorate_core::runtime::{Clock, Connection, TaskScope};
use tokio::sync::mpsc;
use tracing::debug;

/// Hands connections to the backend.
pub(crate) type Sender = mpsc::Sender<(Connection, SocketAddr)>;

/// Peers that wait until the backend has taken the earlier ones.
pub(crate) const WAITING_MAX: usize = 64;

/// The first byte of a peer of the backend. As the first byte of a length it would be negative.
const MAGIC: u8 = 0xC5;

/// Whoever connects says something within this, or is not heard.
const FIRST_BYTE_MAX: Duration = Duration::from_secs(10);

/// Looks at the first byte without reading it. Gives the connection back if it speaks Kafka's protocol; else it has
/// gone to the backend, or has said nothing.
pub(crate) async fn divert(
    connection: Connection,
    peer: SocketAddr,
    peers: &Sender,
    tasks: &TaskScope,
) -> Option<Connection> {
    let Connection::Tcp(stream) = &connection else { return Some(connection) };
    let (clock, mut first) = (Clock::system(), [0]);
    let looked = tokio::select! { biased;
        () = tasks.stopping() => return None,
        looked = clock.timeout(FIRST_BYTE_MAX, stream.peek(&mut first)) => looked,
    };
    match (looked, first) {
        (Ok(Ok(1)), [MAGIC]) => {
            // A backend that takes nobody has no peers in this process, or stops.
            if peers.send((connection, peer)).await.is_err() {
                debug!(%peer, "a consensus peer was turned away: this node's backend takes none");
            }
            None
        }
        (Ok(Ok(1)), _) => Some(connection),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
    };

    async fn pair() -> (TcpStream, Connection, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (far, peer) = listener.accept().await.unwrap();
        (near, Connection::Tcp(far), peer)
    }

    #[tokio::test]
    async fn a_peer_of_the_backend_goes_to_it_with_its_first_byte_unread() {
        let (mut near, far, peer) = pair().await;
        let (sender, mut receiver) = mpsc::channel(1);
        near.write_all(&[MAGIC, 7]).await.unwrap();
        assert!(divert(far, peer, &sender, &TaskScope::threaded()).await.is_none());
        let (mut handed, from) = receiver.recv().await.unwrap();
        assert_eq!(from, peer);
        assert_eq!(handed.read_u8().await.unwrap(), MAGIC);
    }

    #[tokio::test]
    async fn a_kafka_request_stays_and_a_closed_connection_ends() {
        let (sender, _receiver) = mpsc::channel(1);
        let (mut near, far, peer) = pair().await;
        near.write_all(&[0, 0, 0, 20]).await.unwrap();
        let mut kept = divert(far, peer, &sender, &TaskScope::threaded()).await.unwrap();
        assert_eq!(kept.read_u32().await.unwrap(), 20);
        let (near, far, peer) = pair().await;
        drop(near);
        assert!(divert(far, peer, &sender, &TaskScope::threaded()).await.is_none());
    }
}
