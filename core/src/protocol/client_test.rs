use bytes::BufMut as _;
use tokio::io::{AsyncReadExt as _, DuplexStream};

use super::*;
use crate::protocol::{
    bodies::{MetadataRequest, MetadataResponse},
    primitives::Reader,
};

const SOON: Duration = Duration::from_secs(5);

fn pair() -> (Client, DuplexStream) {
    let (near, far) = tokio::io::duplex(4096);
    let tasks = TaskScope::single_threaded();
    (Client::over(Connection::Memory(near), &tasks, Clock::system(), ("test", "me")), far)
}

/// Reads one request and returns its correlation id.
async fn read_request(far: &mut DuplexStream) -> i32 {
    let mut frame = vec![0; usize::try_from(far.read_i32().await.unwrap()).unwrap()];
    far.read_exact(&mut frame).await.unwrap();
    let (header, _) = header::read_request(&mut Reader::new(&frame)).unwrap();
    assert_eq!(header.client_id, Some(&b"me"[..]));
    header.correlation_id
}

async fn answer(far: &mut DuplexStream, correlation_id: i32, controller: i32) {
    let mut frame = BytesMut::zeroed(4);
    header::write_response(&mut frame, correlation_id, true, &Extras::default());
    let body = MetadataResponse::default().with_controller_id(controller.into());
    bodies::encode(&mut frame, &body, ApiKey::METADATA, 13).unwrap();
    let length = i32::try_from(frame.len() - 4).unwrap();
    frame[..4].as_mut().put_i32(length);
    far.write_all(&frame).await.unwrap();
}

#[tokio::test]
async fn pipelined_requests_get_their_own_answers() {
    let (client, mut far) = pair();
    let request = MetadataRequest::default();
    let server = async {
        let (first, second) = (read_request(&mut far).await, read_request(&mut far).await);
        answer(&mut far, first, 1).await;
        answer(&mut far, second, 2).await;
    };
    let (one, two, ()) = tokio::join!(client.call(&request, SOON), client.call(&request, SOON), server);
    assert_eq!((one.unwrap().controller_id.0, two.unwrap().controller_id.0), (1, 2));
}

#[tokio::test]
async fn a_connection_that_ends_fails_everyone_who_waits() {
    let (client, mut far) = pair();
    let request = MetadataRequest::default();
    let server = async {
        read_request(&mut far).await;
        drop(far);
    };
    let (one, two, ()) = tokio::join!(client.call(&request, SOON), client.call(&request, SOON), server);
    assert!(matches!(one, Err(ClientError::Closed(_))));
    assert!(matches!(two, Err(ClientError::Closed(_))));
    assert!(matches!(client.call(&request, SOON).await, Err(ClientError::Closed(_))));
}

#[tokio::test]
async fn an_answer_to_another_request_closes_the_connection() {
    let (client, mut far) = pair();
    let request = MetadataRequest::default();
    let server = async {
        let correlation_id = read_request(&mut far).await;
        answer(&mut far, correlation_id + 1, 1).await;
        far
    };
    let (one, _far) = tokio::join!(client.call(&request, SOON), server);
    assert!(matches!(one, Err(ClientError::Closed(_))));
}

#[tokio::test(start_paused = true)]
async fn silence_ends_with_a_timeout() {
    let (client, mut far) = pair();
    let request = MetadataRequest::default();
    let server = async {
        read_request(&mut far).await;
        far
    };
    let (one, _far) = tokio::join!(client.call(&request, SOON), server);
    assert!(matches!(one, Err(ClientError::Timeout(_))));
}

#[tokio::test]
async fn dropping_the_client_closes_the_connection() {
    let (client, mut far) = pair();
    drop(client);
    assert_eq!(far.read(&mut [0; 1]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_scope_ends_although_a_client_is_still_held() {
    let (near, _far) = tokio::io::duplex(4096);
    let tasks = TaskScope::single_threaded();
    let client = Client::over(Connection::Memory(near), &tasks, Clock::system(), ("test", "me"));
    let request = MetadataRequest::default();
    let clock = Clock::system();
    let (answer, stopped) = tokio::join!(client.call(&request, SOON), clock.timeout(SOON, tasks.stop()));
    assert!(matches!(answer, Err(ClientError::Closed(_))), "{answer:?}");
    stopped.unwrap();
    assert!(client.is_closed());
}
