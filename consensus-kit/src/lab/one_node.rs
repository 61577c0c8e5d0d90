//! A cluster of one node.

use bytes::Bytes;
use quorate_core::{
    consensus::{Chain, Leader, LogId, LogIndex, ProposeError, Resume, StartError},
    ids::Epoch,
    runtime::simulated::Keep,
};

use super::{Backend, Lab, SECOND, chain};
use crate::config::MAX_ENTRY_BYTES;

pub async fn one_node_founds_elects_and_commits_by_itself(backend: Backend) {
    let mut lab = Lab::new(backend, 1, &[0]);
    let running = lab.start(0).await;
    let (leader, epoch) = lab.elected(SECOND).await;
    assert_eq!(leader, 0);
    let event = running.leader_events().last().unwrap();
    let Leader::Me { opened_at } = event.leader else { panic!("{event:?}") };
    let index = running.propose(epoch, Bytes::from_static(b"first")).await.unwrap();
    assert_eq!(index, opened_at.next());
    assert_eq!(running.read_barrier().await.unwrap(), index);
    let log = lab.log(0, 0, index).await;
    let (last, before) = log.split_last().unwrap();
    assert_eq!(*last, (index.0, epoch, Bytes::from_static(b"first")));
    assert!(
        before.iter().all(|(_, _, data)| data.is_empty()),
        "the engine's own entries show nothing: {before:?}"
    );
    assert_eq!(before.last().map(|(index, of, _)| (*index, *of)), Some((opened_at.0, epoch)));
    let status = running.status();
    assert!(status.log_id.is_some() && status.founding.is_none() && status.fatal.is_none(), "{status:?}");
}

pub async fn what_one_node_acknowledged_is_there_after_a_crash(backend: Backend) {
    let mut lab = Lab::new(backend, 1, &[0]);
    lab.start(0).await;
    let index = lab.commit("kept").await;
    let before = lab.log(0, 0, index).await;
    let (_, epoch) = lab.leader().unwrap();
    lab.crash(0, Keep::None);
    lab.start(0).await;
    let (_, later) = lab.elected(SECOND).await;
    assert!(later > epoch);
    assert_eq!(lab.log(0, 0, index).await, before);
    assert_eq!(lab.log(0, index.0, index.next()).await, [(index.0 + 1, later, Bytes::new())]);
}

pub async fn the_limit_of_an_entry_is_exact(backend: Backend) {
    let mut lab = Lab::new(backend, 1, &[0]);
    let running = lab.start(0).await;
    let (_, epoch) = lab.elected(SECOND).await;
    let limit = running.status().max_entry_bytes;
    assert_eq!(limit, MAX_ENTRY_BYTES);
    assert!(running.propose(epoch, vec![1; limit].into()).await.is_ok());
    assert_eq!(running.propose(epoch, vec![1; limit + 1].into()).await, Err(ProposeError::TooLarge));
    assert_eq!(running.propose(epoch, Bytes::new()).await, Err(ProposeError::TooLarge));
    let hint = None;
    assert_eq!(
        running.propose(Epoch(epoch.0 + 1), Bytes::from_static(b"x")).await,
        Err(ProposeError::NotLeader { hint })
    );
}

pub async fn a_full_queue_is_busy_and_not_memory(backend: Backend) {
    let mut lab = Lab::new(backend, 1, &[0]);
    let running = lab.start(0).await;
    let (_, epoch) = lab.elected(SECOND).await;
    let entry = Bytes::from(vec![7; MAX_ENTRY_BYTES]);
    let proposals: Vec<_> = (0..40).map(|_| running.propose(epoch, entry.clone())).collect();
    let outcomes = futures_util::future::join_all(proposals).await;
    let busy = outcomes.iter().filter(|outcome| **outcome == Err(ProposeError::Busy)).count();
    let done = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert!(busy >= 20 && done >= 10 && busy + done == 40, "{busy} busy, {done} done");
    assert!(running.propose(epoch, entry).await.is_ok(), "later there is room again");
}

pub async fn a_caller_of_another_history_is_refused(backend: Backend) {
    let mut lab = Lab::new(backend, 1, &[0]);
    lab.start(0).await;
    let index = lab.commit("x").await;
    let entries = lab.log(0, 0, index).await;
    let log = lab.running(0).status().log_id.unwrap();
    let good = Resume { log_id: Some(log), applied: index, chain: chain(log, &entries) };
    for (resume, foreign) in [
        (Resume { log_id: Some(LogId([1; 16])), ..good }, true),
        (Resume { chain: Chain([1; 16]), ..good }, true),
        (Resume { applied: LogIndex(99), ..good }, false),
    ] {
        lab.crash(0, Keep::All);
        let error = lab.try_start(0, resume).await.err().unwrap();
        assert_eq!(matches!(error, StartError::Foreign(_)), foreign, "{error}");
    }
    lab.crash(0, Keep::All);
    lab.try_start(0, good).await.unwrap();
    lab.elected(SECOND).await;
    lab.crash(0, Keep::All);
    lab.add_machine(0);
    let error = lab.try_start(0, good).await.err().unwrap();
    assert!(matches!(error, StartError::Foreign(_)), "an emptied folder: {error}");
}

pub async fn shutdown_ends_streams_and_is_idempotent(backend: Backend) {
    let mut lab = Lab::new(backend, 1, &[0]);
    let running = lab.start(0).await;
    let index = lab.commit("x").await;
    let mut events = running.leader_events();
    let mut entries = running.committed(index);
    lab.shutdown(0).await;
    running.shutdown().await;
    while events.next().await.is_some() {}
    while futures_util::StreamExt::next(&mut entries).await.is_some() {}
    let epoch = Epoch(9);
    assert_eq!(running.propose(epoch, Bytes::from_static(b"x")).await, Err(ProposeError::Stopped));
    lab.start(0).await;
    lab.elected(SECOND).await;
}
