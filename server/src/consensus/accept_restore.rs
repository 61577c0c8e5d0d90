//! `quorate consensus accept-restore`: goes on after etcd was restored from an old backup.
//!
//! The metadata that a node has kept is newer than the restored log, and is not thrown away: it becomes the beginning of
//! the next generation. The command runs on every node, one after the other. The first decides; a later one that knows
//! more decides anew, as long as nobody has used the generation; every other one takes what was decided.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use quorate_consensus_etcd::restore::{Decision, Finding, Loss, Restore, RestoreError, Witness};
use quorate_core::{
    broker::{meta_properties::MetaProperties, restored},
    consensus::Snapshot,
    metadata::{
        Image, adoption,
        snapshot::{self, Chunks, Reader},
    },
    runtime::{Moment, Runtime},
};

use crate::{
    backend,
    cli::AcceptRestoreArgs,
    config::{self, ServerConfig},
    exit::Failure,
    node, server,
};

/// The longest lease is a minute; after that whoever is still registered runs.
const LEASES_END: Duration = Duration::from_secs(65);
/// Between looks.
const PAUSE: Duration = Duration::from_millis(300);

/// Accepts that the log was lost, for the node of this configuration.
///
/// # Errors
/// If the node runs, if nothing was lost, or if etcd or a disk fails. What was done until then can be done again.
pub(crate) fn run(args: &AcceptRestoreArgs) -> Result<(), Failure> {
    let (settings, config) = server::load(&args.file, &args.overrides, config::environment())?;
    for note in &settings.notes {
        eprintln!("quorate: {note}");
    }
    let engine = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::new)?;
    let entered = engine.enter();
    let runtime = Runtime::real();
    let restore = backend::restore(&config, &runtime).map_err(Failure::Config)?;
    let _locks = node::lock(&config, &runtime)?;
    let folders = node::open(&config, &runtime, &config.consensus.name)?;
    let kept = restored::newest_image(&runtime, &config.metadata_dir).map_err(Failure::new)?;
    let acceptance = Acceptance::new(&config, &runtime, restore, folders, kept);
    drop(entered);
    engine.block_on(acceptance.run())
}

struct Acceptance<'a> {
    config: &'a ServerConfig,
    runtime: &'a Runtime,
    restore: Restore,
    folders: Vec<MetaProperties>,
    /// The newest state that this node has kept, in the generation that it is of.
    kept: Arc<Image>,
    witness: Witness,
}

impl<'a> Acceptance<'a> {
    fn new(
        config: &'a ServerConfig,
        runtime: &'a Runtime,
        restore: Restore,
        folders: Vec<MetaProperties>,
        kept: Image,
    ) -> Self {
        let cluster = folders.iter().find_map(|folder| folder.cluster);
        // Where this was interrupted, some folders are of the next generation already: the others show what is undone.
        let generation = folders.iter().map(|folder| folder.generation).min().unwrap_or(1);
        let is_of_it = kept.founding.is_some_and(|founding| founding.generation == generation);
        let kept = if is_of_it { kept } else { Image::default() };
        let (node, index, chain) = (config.node, kept.index, kept.chain);
        let witness = Witness { node, cluster, generation, index, chain };
        Self { config, runtime, restore, folders, kept: Arc::new(kept), witness }
    }

    async fn run(mut self) -> Result<(), Failure> {
        let patience = self.runtime.clock.now().plus(LEASES_END);
        let mut told = false;
        loop {
            match self.restore.look(&self.witness).await.map_err(failed)? {
                Finding::Whole => return self.nothing_to_accept(),
                Finding::Decided(decision) => return self.take(&decision).await,
                Finding::Lost(loss) if loss.alive.is_empty() => self.decide(&loss).await?,
                Finding::Lost(loss) => {
                    self.wait_for_leases(&loss, patience, &mut told)?;
                    self.runtime.clock.sleep(PAUSE).await;
                }
            }
        }
    }

    fn nothing_to_accept(&self) -> Result<(), Failure> {
        let Witness { generation, index, .. } = self.witness;
        if generation > 1 {
            println!(
                "Nothing left to do: this node is of generation {generation}, and etcd holds all that it knows of it."
            );
            return Ok(());
        }
        Err(Failure::new(format!(
            "nothing to accept: etcd holds all that this node knows, up to entry {index}; start it. If another node says \
             that its log was rewound or has diverged, run this on that node first, and then here again"
        )))
    }

    /// A node that is still registered either runs, or its lease has not ended yet; a restore brings leases back.
    fn wait_for_leases(&self, loss: &Loss, patience: Moment, told: &mut bool) -> Result<(), Failure> {
        let alive: Vec<String> =
            loss.alive.iter().map(|(node, endpoint)| format!("node {node} at {endpoint}")).collect();
        let alive = alive.join(", ");
        if self.runtime.clock.now() >= patience {
            return Err(Failure::new(format!(
                "still running: {alive}; stop every node before this is decided"
            )));
        }
        if !std::mem::replace(told, true) {
            println!("Waiting until the leases have ended of {alive}. If one of them runs, stop it.");
        }
        Ok(())
    }

    /// Begins the next generation with what this node has kept.
    async fn decide(&self, loss: &Loss) -> Result<(), Failure> {
        let adopted = adoption::adopt(&self.kept, loss.generation, loss.beyond).map_err(Failure::new)?;
        let adopted = Arc::new(adopted);
        let chunks = stream::iter(Chunks::of(adopted.clone()).map(Ok)).boxed();
        let state = Snapshot { meta: snapshot::meta(&adopted), chunks };
        println!("Found: {}.", loss.sentence);
        let begun = self.restore.adopt(&self.witness, loss, adopted.log_id, state).await.map_err(failed)?;
        if begun && let Some(node) = loss.replaces.filter(|node| *node != self.config.node) {
            println!("The state of this node takes the place of node {node}'s: run this there once more.");
        }
        Ok(())
    }

    /// Makes this node one of the generation that has begun.
    async fn take(&mut self, decision: &Decision) -> Result<(), Failure> {
        let generation = decision.generation;
        let mut reader = Reader::new();
        let read =
            self.restore.read(generation, |chunk| reader.push(chunk).map_err(|error| error.to_string()));
        read.await.map_err(failed)?;
        let image = reader.finish().map_err(Failure::new)?;
        let founding = image.founding.filter(|founding| founding.generation == generation);
        let founding = founding.ok_or_else(|| Failure::new("the state in etcd is of another generation"))?;
        self.tell(decision, &image);
        let aside = restored::keep_aside(self.runtime, &self.config.log_dirs, self.config.node, &image);
        for path in aside.map_err(Failure::new)? {
            println!(
                "Kept aside: {} (its partition is not in the metadata, or not on this node).",
                path.display()
            );
        }
        for folder in &mut self.folders {
            let joined = folder.join(self.runtime.disk.as_ref(), founding.cluster, generation);
            joined.map_err(|error| Failure::new(format!("{}: {error}", folder.folder.display())))?;
        }
        println!("This node is of generation {generation} now.");
        let others = others(&image, self.config);
        if !others.is_empty() {
            println!(
                "Run this on {others} too, if it has not been, before any node is started: a node that knows more than \
                 this state replaces it. Then start them all."
            );
        }
        Ok(())
    }

    fn tell(&self, decision: &Decision, image: &Image) {
        let Decision { generation, node, index, forgets, .. } = decision;
        let partitions: usize = image.topics.values().map(|topic| topic.partitions.len()).sum();
        println!(
            "Generation {generation} goes on with the metadata that node {node} had kept, up to entry {index} of the \
             generation before: {} topics, {partitions} partitions, {} brokers.",
            image.topics.len(),
            image.brokers.len()
        );
        if let Some(known) = forgets {
            println!(
                "This node knew the metadata up to entry {known}, which comes too late: the generation is in use. What \
                 was changed after entry {index} is lost."
            );
        }
    }
}

/// Whoever else has folders of the cluster.
fn others(image: &Image, config: &ServerConfig) -> String {
    let nodes = image.brokers.keys().chain(config.voters.keys()).filter(|node| **node != config.node);
    let nodes: std::collections::BTreeSet<i32> = nodes.map(|node| node.0).collect();
    let nodes: Vec<String> = nodes.into_iter().map(|node| node.to_string()).collect();
    match nodes.as_slice() {
        [] => String::new(),
        [one] => format!("node {one}"),
        more => format!("the nodes {}", more.join(", ")),
    }
}

fn failed(error: RestoreError) -> Failure {
    Failure::new(error)
}
