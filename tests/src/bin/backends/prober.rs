//! A client that changes the metadata: one config of one topic, again and again.

use std::time::{Duration, Instant};

use quorate_core::{
    protocol::{
        bodies::{self, IncrementalAlterConfigsRequest, incremental_alter_configs_request as ask},
        client::Client,
    },
    runtime::Runtime,
};

/// The topic whose config is changed.
pub(crate) const TOPIC: &str = "probed";
/// How long one broker may take before another one is asked.
const ATTEMPT: Duration = Duration::from_millis(400);
/// When nobody has changed the metadata by then, the cluster counts as down.
pub(crate) const GIVEN_UP: Duration = Duration::from_secs(60);

const TOPIC_RESOURCE: i8 = 2;

fn change(value: u64) -> IncrementalAlterConfigsRequest {
    let config = ask::AlterableConfig::default()
        .with_name(bodies::text("retention.ms"))
        .with_config_operation(0)
        .with_value(Some(bodies::text((1_000_000_000 + value).to_string())));
    let resource = ask::AlterConfigsResource::default()
        .with_resource_type(TOPIC_RESOURCE)
        .with_resource_name(bodies::text(TOPIC))
        .with_configs(vec![config]);
    IncrementalAlterConfigsRequest::default().with_resources(vec![resource])
}

async fn changed(client: &Client, value: u64, timeout: Duration) -> bool {
    let answer = client.call(&change(value), timeout).await;
    answer.is_ok_and(|answer| answer.responses.iter().all(|resource| resource.error_code == 0))
}

/// Asks the brokers in turn until one has changed the metadata; how long that took, in ms.
pub(crate) async fn next_change(brokers: &[String]) -> f64 {
    let runtime = Runtime::real();
    let begun = Instant::now();
    for (turn, broker) in brokers.iter().cycle().enumerate() {
        if begun.elapsed() > GIVEN_UP {
            return f64::INFINITY;
        }
        if let Ok(client) = Client::connect(&runtime, broker, "prober", ATTEMPT).await
            && changed(&client, turn as u64, ATTEMPT).await
        {
            return begun.elapsed().as_secs_f64() * 1e3;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    f64::INFINITY
}

/// Changes a second, with so many clients at one broker, each of which waits for its answer.
pub(crate) async fn rate(broker: &str, clients: u64, seconds: u64) -> f64 {
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..clients {
        let broker = broker.to_owned();
        tasks.spawn(async move {
            let runtime = Runtime::real();
            let client = Client::connect(&runtime, &broker, "prober", GIVEN_UP).await.expect("a connection");
            let mut done = 0_u64;
            while Instant::now() < until {
                done += u64::from(changed(&client, number + done * clients, GIVEN_UP).await);
            }
            done
        });
    }
    tasks.join_all().await.iter().sum::<u64>() as f64 / seconds as f64
}
