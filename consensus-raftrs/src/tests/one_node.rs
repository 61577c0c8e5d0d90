use bytes::Bytes;
use quorate_core::{
    consensus::{Chain, Leader, LogId, LogIndex, ProposeError, Resume, StartError},
    ids::Epoch,
    runtime::simulated::Keep,
};

use super::lab::{Lab, SECOND, chain};
use crate::MAX_ENTRY_BYTES;

#[tokio::test(start_paused = true)]
async fn one_node_founds_elects_and_commits_by_itself() {
    let mut lab = Lab::new(1, &[0]);
    let running = lab.start(0).await;
    let (leader, epoch) = lab.elected(SECOND).await;
    assert_eq!(leader, 0);
    let event = running.leader_events().last().unwrap();
    assert_eq!(event.leader, Leader::Me { opened_at: LogIndex(1) });
    let index = running.propose(epoch, Bytes::from_static(b"first")).await.unwrap();
    assert_eq!(index, LogIndex(2));
    assert_eq!(running.read_barrier().await.unwrap(), LogIndex(2));
    let log = lab.log(0, 0, index).await;
    assert_eq!(log, [(1, epoch, Bytes::new()), (2, epoch, Bytes::from_static(b"first"))]);
    let status = running.status();
    assert!(status.log_id.is_some() && status.founding.is_none() && status.fatal.is_none(), "{status:?}");
}

#[tokio::test(start_paused = true)]
async fn what_one_node_acknowledged_is_there_after_a_crash() {
    let mut lab = Lab::new(1, &[0]);
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

#[tokio::test(start_paused = true)]
async fn the_limit_of_an_entry_is_exact() {
    let mut lab = Lab::new(1, &[0]);
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

#[tokio::test(start_paused = true)]
async fn a_full_queue_is_busy_and_not_memory() {
    let mut lab = Lab::new(1, &[0]);
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

#[tokio::test(start_paused = true)]
async fn a_caller_of_another_history_is_refused() {
    let mut lab = Lab::new(1, &[0]);
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

#[tokio::test(start_paused = true)]
async fn shutdown_ends_streams_and_is_idempotent() {
    let mut lab = Lab::new(1, &[0]);
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
