//! A TCP proxy on loopback that a test can turn into a bad network: it holds, drops or cuts what passes through it.

use std::{net::SocketAddr, sync::Arc};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
};

/// What happens to the bytes of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// They pass.
    Pass,
    /// They wait, in order, until the fate changes.
    Hold,
    /// They vanish for good; the connection is of no more use after that.
    Drop,
}

#[derive(Clone, Copy, Debug)]
struct Weather {
    to_server: Fate,
    to_client: Fate,
    /// Connections older than this number are closed.
    cut: u64,
    /// Whether new connections are accepted.
    open: bool,
}

/// A proxy in front of one server. Dropping it cuts everything.
pub struct Proxy {
    address: SocketAddr,
    weather: Arc<watch::Sender<Weather>>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    /// Listens on a free port of loopback and connects to `server`, `host:port`, for each connection.
    ///
    /// # Panics
    /// If there is no port to be had.
    pub async fn before(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let fair = Weather { to_server: Fate::Pass, to_client: Fate::Pass, cut: 0, open: true };
        let weather = Arc::new(watch::Sender::new(fair));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, server, weather.clone()));
        Self { address, weather, _tasks: tasks }
    }

    /// Where clients connect: `host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// What happens to requests and to answers from now on.
    pub fn set(&self, to_server: Fate, to_client: Fate) {
        self.weather.send_modify(|weather| (weather.to_server, weather.to_client) = (to_server, to_client));
    }

    /// Closes every connection; new ones are accepted.
    pub fn cut(&self) {
        self.weather.send_modify(|weather| weather.cut += 1);
    }

    /// Closes every connection and refuses new ones, or accepts them again.
    pub fn open(&self, open: bool) {
        self.weather.send_modify(|weather| {
            weather.open = open;
            weather.cut += 1;
        });
    }
}

async fn accept(listener: TcpListener, server: String, weather: Arc<watch::Sender<Weather>>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { return };
        let now = *weather.borrow();
        if !now.open {
            continue;
        }
        let (server, weather) = (server.clone(), weather.subscribe());
        connections.spawn(async move {
            let Ok(upstream) = TcpStream::connect(server).await else { return };
            let _ = (client.set_nodelay(true), upstream.set_nodelay(true));
            let ((from_client, to_client), (from_server, to_server)) =
                (client.into_split(), upstream.into_split());
            let mut old = weather.clone();
            tokio::select! { biased;
                _ = old.wait_for(|weather| weather.cut > now.cut) => {}
                () = carry(from_client, to_server, weather.clone(), |weather| weather.to_server) => {}
                () = carry(from_server, to_client, weather, |weather| weather.to_client) => {}
            }
        });
    }
}

async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut weather: watch::Receiver<Weather>,
    fate: impl Fn(&Weather) -> Fate,
) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => count,
        };
        // What was read before the fate changed meets the new one.
        let Ok(now) = weather.wait_for(|weather| fate(weather) != Fate::Hold).await.map(|now| fate(&now))
        else {
            return;
        };
        if now == Fate::Pass && to.write_all(buffer.get(..count).unwrap_or_default()).await.is_err() {
            return;
        }
    }
}
