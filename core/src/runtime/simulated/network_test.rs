use std::{io, time::Duration};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::SimulatedNetwork;
use crate::runtime::{Clock, Connection, Listener, Rng, TaskScope};

const PATIENCE: Duration = Duration::from_secs(60);

fn network() -> (SimulatedNetwork, Clock) {
    let clock = Clock::simulated(0).0;
    let network = SimulatedNetwork::new(clock.clone(), Rng::seeded(3), TaskScope::single_threaded());
    network.set_delay(Duration::from_millis(1)..Duration::from_millis(9));
    (network, clock)
}

fn listen(network: &SimulatedNetwork, machine: &str) -> Listener {
    network.machine(machine).listen("0.0.0.0:9092".parse().unwrap()).unwrap()
}

async fn pair(network: &SimulatedNetwork) -> (Connection, Connection, Listener) {
    let mut listener = listen(network, "b");
    let near = network.machine("a").connect("b:9092").await.unwrap();
    let (far, _) = listener.accept().await.unwrap();
    (near, far, listener)
}

async fn byte(connection: &mut Connection) -> io::Result<u8> {
    connection.read_u8().await
}

#[tokio::test(start_paused = true)]
async fn bytes_arrive_in_order_after_a_while() {
    let (network, clock) = network();
    let (mut near, mut far, _listener) = pair(&network).await;
    let start = clock.now();
    near.write_all(b"request").await.unwrap();
    let mut request = [0; 7];
    far.read_exact(&mut request).await.unwrap();
    assert_eq!(&request, b"request");
    assert!(clock.now().since(start) >= Duration::from_millis(1));
    near.shutdown().await.unwrap();
    assert_eq!(byte(&mut far).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    far.write_all(b"x").await.unwrap();
    assert_eq!(byte(&mut near).await.unwrap(), b'x', "half closed");
}

#[tokio::test(start_paused = true)]
async fn a_cut_holds_one_direction_and_a_heal_delivers_it() {
    let (network, clock) = network();
    let (mut near, mut far, _listener) = pair(&network).await;
    network.cut("a", "b");
    near.write_all(b"1").await.unwrap();
    far.write_all(b"2").await.unwrap();
    assert_eq!(byte(&mut near).await.unwrap(), b'2');
    assert!(clock.timeout(PATIENCE, byte(&mut far)).await.is_err());
    let machine = network.machine("a");
    assert!(clock.timeout(PATIENCE, machine.connect("b:9092")).await.is_err());
    network.heal("a", "b");
    assert_eq!(byte(&mut far).await.unwrap(), b'1');
}

#[tokio::test(start_paused = true)]
async fn a_killed_machine_loses_its_connections_and_its_listeners() {
    let (network, clock) = network();
    let (mut near, _far, _listener) = pair(&network).await;
    network.kill("b");
    assert!(clock.timeout(PATIENCE, byte(&mut near)).await.unwrap().is_err());
    let refused = network.machine("a").connect("b:9092").await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    let (mut near, mut far, _listener) = pair(&network).await;
    near.write_all(b"1").await.unwrap();
    assert_eq!(byte(&mut far).await.unwrap(), b'1');
}

#[tokio::test(start_paused = true)]
async fn a_port_is_taken_once_on_each_machine() {
    let (network, _) = network();
    let first = listen(&network, "a");
    let _other = listen(&network, "b");
    let again = network.machine("a").listen("0.0.0.0:9092".parse().unwrap());
    assert_eq!(again.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    drop(first);
    let _again = listen(&network, "a");
    let free = network.machine("a").listen("127.0.0.1:0".parse().unwrap()).unwrap();
    assert_ne!(free.local_addr().unwrap().port(), 0);
}
