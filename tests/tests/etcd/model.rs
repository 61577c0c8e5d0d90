//! The model of etcd that the simulation runs on, against a real one: the same random scripts, the same answers.

use etcd_client::{AlarmAction, AlarmType};
use quorate_consensus_etcd::simulation::script::{Deed, compare};
use quorate_core::runtime::Rng;
use quorate_tests::etcd::{EtcdServer, Release};

use super::common::config;

/// Random things that are asked for in a script.
const STEPS: usize = 400;

async fn answers_alike(release: Release) {
    let seed = Rng::system().below(1_000_000);
    println!("REPRODUCE: seed {seed}");
    let etcd = EtcdServer::start_with(release, &[]);
    let operate = async |deed| {
        let mut client = etcd.client().await;
        match deed {
            Deed::Compact(revision) => drop(client.compact(revision, None).await.unwrap()),
            Deed::Full(full) => {
                let action = if full { AlarmAction::Activate } else { AlarmAction::Deactivate };
                client.alarm(action, AlarmType::Nospace, None).await.unwrap();
            }
        }
    };
    let outcome = compare(seed, STEPS, &config(1, &etcd.address(), "/m"), operate).await;
    outcome.unwrap_or_else(|difference| panic!("seed {seed}: {difference}"));
}

#[tokio::test]
async fn the_model_answers_as_the_current_release() {
    answers_alike(Release::Current).await;
}

#[tokio::test]
async fn the_model_answers_as_the_oldest_release() {
    answers_alike(Release::Floor).await;
}
