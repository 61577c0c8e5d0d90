//! What an operator gets wrong, and an etcd that cannot: one sentence that names the cause.

use std::time::Duration;

use bytes::Bytes;
use etcd_client::{AlarmAction, AlarmOptions, AlarmType, Client, ConnectOptions, Permission};
use quorate_consensus_etcd::{Credentials, Etcd, Tls};
use quorate_core::{
    consensus::{Consensus as _, Leader, LogIndex, ProposeError, Resume},
    runtime::Clock,
};
use quorate_tests::{
    certificates::Certificates,
    etcd::{EtcdServer, Release},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::common::{Node, config, fresh, start, until, within};

#[tokio::test]
async fn a_start_waits_for_no_etcd_and_the_status_names_the_endpoint() {
    let mut etcd = EtcdServer::stopped(Release::Current, &[]);
    let node = fresh(1, &etcd.address(), "/q").await;
    let problem = node.problem("unreachable").await;
    assert!(problem.to_lowercase().contains("refused"), "{problem}");
    assert!(node.status().awaited().contains(&etcd.address()), "{}", node.status().awaited());
    assert!(node.running.leader_events().last().is_none());
    etcd.restart();
    node.leads().await;
    until("no problem", || node.status().peers.iter().all(|peer| peer.problem.is_none())).await;
}

#[tokio::test]
async fn a_port_that_is_not_etcds_is_told_apart_from_a_closed_one() {
    let etcd = EtcdServer::start();
    let node = fresh(1, &etcd.peer_address(), "/q").await;
    let problem = node.problem("etcd's client port").await;
    println!("peer port: {problem}");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let web = async {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
        }
    };
    let node = fresh(1, &address, "/q").await;
    let problem = tokio::select! { biased;
        problem = node.problem("etcd's client port") => problem,
        () = web => unreachable!(),
    };
    println!("web server: {problem}");
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let node = fresh(1, &mute.local_addr().unwrap().to_string(), "/q").await;
    println!("mute: {}", node.problem("accepts connections").await);
    let encrypted = format!("https://{}", etcd.address());
    let node = fresh(1, &encrypted, "/q").await;
    println!("https to plain: {}", node.problem("TLS").await);
}

#[tokio::test]
async fn one_dead_endpoint_of_two_is_named_and_does_no_harm() {
    let (etcd, dead) = (EtcdServer::start(), EtcdServer::stopped(Release::Current, &[]));
    let mut config = config(1, &dead.address(), "/q");
    config.endpoints.push(etcd.address());
    let node = start(config, Resume::default()).await;
    let (epoch, _) = node.leads().await;
    assert_eq!(node.propose(epoch, "a").await, Ok(LogIndex(2)));
    node.problem("unreachable").await;
    assert_eq!(node.status().peers[1].problem, None);
}

async fn with_user(etcd: &EtcdServer, id: i32, username: &str, password: &str) -> Node {
    let mut config = config(id, &etcd.address(), "/q");
    config.credentials = Some(Credentials { username: username.to_owned(), password: password.to_owned() });
    start(config, Resume::default()).await
}

async fn enable_users(client: &mut Client) {
    client.role_add("quorate").await.unwrap();
    client.role_grant_permission("quorate", Permission::read_write("/q/").with_prefix()).await.unwrap();
    for (user, role) in [("root", "root"), ("broker", "quorate"), ("guest", "guest")] {
        let _ = client.role_add(role).await;
        client.user_add(user, "secret", None).await.unwrap();
        client.user_grant_role(user, role).await.unwrap();
    }
    client.auth_enable().await.unwrap();
}

/// Waits until a token that is made now has run out. Each use of a token would keep it, so that each look has its own.
async fn a_token_runs_out(etcd: &EtcdServer) {
    let mut tokens = Vec::new();
    for _ in 0..60 {
        let options = ConnectOptions::new().with_user("broker", "secret");
        tokens.push(Client::connect([etcd.address()], Some(options)).await.unwrap());
    }
    within("a token runs out", async {
        for mut client in tokens {
            if client.get("/q/1/tail", None).await.is_err() {
                return;
            }
            Clock::system().sleep(Duration::from_millis(100)).await;
        }
        panic!("no token has run out");
    })
    .await;
}

#[tokio::test]
async fn wrong_missing_and_insufficient_credentials_are_named() {
    // Tokens that soon run out: the session outlives several.
    let etcd = EtcdServer::start_with(Release::Current, &["--auth-token-ttl", "1"]);
    let node = with_user(&etcd, 9, "broker", "secret").await;
    node.leads().await;
    node.running.shutdown().await;
    enable_users(&mut etcd.client().await).await;
    let wrong = with_user(&etcd, 1, "broker", "wrong").await;
    wrong.problem("wrong user or password").await;
    let missing = fresh(2, &etcd.address(), "/q").await;
    missing.problem("demands a user").await;
    let guest = with_user(&etcd, 3, "guest", "secret").await;
    guest.problem("does not permit").await;
    let mut patient = config(4, &etcd.address(), "/q");
    // Its requests are so seldom that a token runs out between two of them.
    patient.lease_ttl = Duration::from_secs(20);
    patient.credentials = Some(Credentials { username: "broker".to_owned(), password: "secret".to_owned() });
    let right = start(patient, Resume::default()).await;
    let (epoch, _) = right.leads().await;
    for round in 0..2 {
        let data = format!("token {round}");
        within("a proposal", right.running.propose(epoch, data.clone().into())).await.unwrap();
        a_token_runs_out(&etcd).await;
        assert!(right.propose(epoch, &data).await.is_ok(), "the token is made anew");
    }
    assert_eq!(right.status().peers[0].problem, None);
    for node in [wrong, missing, guest] {
        assert!(node.running.leader_events().last().is_none_or(|event| event.epoch.0 <= epoch.0));
    }
}

#[tokio::test]
async fn a_full_etcd_is_named_refuses_writes_and_keeps_reads() {
    // etcd knows its size as of the last batch; with larger batches what is freed below would not be enough.
    let quota = ["--quota-backend-bytes", "2097152", "--backend-batch-limit", "1"];
    let etcd = EtcdServer::start_with(Release::Current, &quota);
    let mut direct = etcd.client().await;
    direct.put("/other", vec![1; 900_000], None).await.unwrap();
    let node = fresh(1, &etcd.address(), "/q").await;
    let (epoch, _) = node.leads().await;
    let mut index = LogIndex(1);
    let refused = within("the quota is used up", async {
        loop {
            match node.running.propose(epoch, Bytes::from(vec![1; 500_000])).await {
                Ok(next) => index = next,
                Err(error) => return error,
            }
        }
    })
    .await;
    assert_eq!(refused, ProposeError::Busy, "a refusal that is worth a retry");
    node.problem("NOSPACE").await;
    assert_eq!(node.running.read_barrier().await, Ok(index), "what was refused is not there");
    assert_eq!(node.applied(index).await.entries.len() as u64, index.0);
    assert!(node.status().awaited().contains("NOSPACE"));
    // What the operator is told to do helps.
    let gone = direct.delete("/other", None).await.unwrap();
    direct.compact(gone.header().unwrap().revision(), None).await.unwrap();
    direct.defragment().await.unwrap();
    let raised = direct.alarm(AlarmAction::Get, AlarmType::Nospace, None).await.unwrap();
    for alarm in raised.alarms() {
        let mut member = AlarmOptions::new();
        member.with_member(alarm.member_id());
        direct.alarm(AlarmAction::Deactivate, AlarmType::Nospace, Some(member)).await.unwrap();
    }
    until("no problem", || node.status().peers.iter().all(|peer| peer.problem.is_none())).await;
    // The defragmentation may have taken longer than the lease.
    within("a proposal is taken", async {
        loop {
            let (epoch, _) = node.leads().await;
            if node.propose(epoch, "there is room").await.is_ok() {
                return;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn tls_demands_the_issuer_and_a_certificate_and_names_what_is_missing() {
    let authority = Certificates::authority();
    let (server, client) = (authority.sign("etcd"), authority.sign("broker"));
    let issuer = authority.authority_file();
    let files = [&server.cert, &server.key, &issuer].map(|file| file.to_str().unwrap().to_owned());
    let [cert, key, ca] = files.each_ref().map(String::as_str);
    let arguments = ["--cert-file", cert, "--key-file", key, "--client-cert-auth", "--trusted-ca-file", ca];
    let etcd = EtcdServer::start_with(Release::Current, &arguments);
    let over_tls = |id: i32, tls: Tls| {
        let mut config = config(id, &etcd.address(), "/q");
        config.tls = Some(tls);
        config
    };
    let with_issuer = Tls { ca_file: Some(issuer.clone()), ..Tls::default() };
    let complete = Tls { cert_file: Some(client.cert), key_file: Some(client.key), ..with_issuer.clone() };
    let right = start(over_tls(1, complete.clone()), Resume::default()).await;
    let (epoch, _) = right.leads().await;
    assert_eq!(right.propose(epoch, "secret").await, Ok(LogIndex(2)));
    for (case, tls) in [
        ("no certificate", with_issuer),
        ("unknown issuer", Tls { ca_file: None, ..complete.clone() }),
        ("another name", Tls { server_name: Some("elsewhere".to_owned()), ..complete.clone() }),
    ] {
        let wrong = start(over_tls(2, tls), Resume::default()).await;
        println!("{case}: {}", wrong.problem("TLS").await);
    }
    let plain = fresh(3, &etcd.address(), "/q").await;
    println!("plain to TLS: {}", plain.problem("https://").await);
    let nowhere = Tls { ca_file: Some("/nowhere/ca.pem".into()), ..complete };
    let missing = Box::new(Etcd::new(over_tls(4, nowhere)).unwrap());
    let refused = missing.start(Resume::default()).await.err();
    assert!(refused.is_some_and(|error| error.to_string().contains("/nowhere/ca.pem")));
}

#[tokio::test]
async fn a_lost_member_of_three_stops_nothing_and_a_lost_majority_is_named() {
    let mut members = EtcdServer::start_cluster(3);
    let mut config = config(1, &members[0].address(), "/q");
    config.endpoints.extend(members[1..].iter().map(EtcdServer::address));
    let node = start(config, Resume::default()).await;
    let (epoch, _) = node.leads().await;
    assert_eq!(node.propose(epoch, "by three").await, Ok(LogIndex(2)));
    members[0].kill();
    // The member may have led etcd: then what is proposed before etcd has elected again is refused or unknown.
    let epoch = within("two members take a proposal", async {
        loop {
            let (epoch, _) = node.leads().await;
            if node.propose(epoch, "by two").await.is_ok() {
                return epoch;
            }
        }
    })
    .await;
    until("the lost member is named", || node.status().peers[0].problem.is_some()).await;
    assert!(node.status().peers[1..].iter().all(|peer| peer.problem.is_none()));
    members[1].kill();
    until("nobody leads", || {
        node.running.leader_events().last().is_some_and(|event| event.leader == Leader::Unknown)
    })
    .await;
    until("each member has its problem", || node.status().peers.iter().all(|peer| peer.problem.is_some()))
        .await;
    println!("no majority: {}", node.status().awaited());
    members[0].restart();
    let (epoch, opened_at) = node.leads_after(epoch).await;
    assert!(node.propose(epoch, "by two again").await.is_ok());
    assert_eq!(node.applied(opened_at).await.data().first().map(String::as_str), Some("by three"));
}
