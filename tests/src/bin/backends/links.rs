//! The backend's own connections, each through a proxy: between nodes, or from a node to etcd. Records and requests to
//! the controller take other ways.

use std::{collections::BTreeMap, fs};

use quorate_conformance::proxy::{Fate, Proxy};
use quorate_tests::cluster::{Backend, Cluster};

/// The proxies of a cluster.
pub(crate) struct Links {
    /// By the node that dials and the one that it dials; 0 is etcd.
    proxies: BTreeMap<(u32, u32), Proxy>,
}

impl Links {
    /// Puts proxies between the nodes of a cluster that is not started.
    pub(crate) async fn between(cluster: &mut Cluster, backend: &Backend) -> Self {
        let mut proxies = BTreeMap::new();
        for id in cluster.ids() {
            let file = cluster.node(id).properties().to_owned();
            let mut text = fs::read_to_string(&file).expect("the properties");
            if let Backend::Etcd { url, .. } = backend {
                let server = url.trim_start_matches("http://").to_owned();
                let proxy = Proxy::before(server.clone()).await;
                text = text.replace(&format!("http://{server}"), &format!("http://{}", proxy.address()));
                proxies.insert((id, 0), proxy);
            } else {
                let key = if matches!(backend, Backend::Library { .. }) {
                    "consensus.peers="
                } else {
                    "controller.quorum.voters="
                };
                let line = text.lines().find(|line| line.starts_with(key)).expect("the peers").to_owned();
                let mut peers = Vec::new();
                for peer in line.trim_start_matches(key).split(',') {
                    let (node, endpoint) = peer.split_once('@').expect("node@endpoint");
                    let node: u32 = node.parse().expect("a node");
                    if node == id {
                        peers.push(peer.to_owned());
                    } else {
                        let proxy = Proxy::before(endpoint.to_owned()).await;
                        peers.push(format!("{node}@{}", proxy.address()));
                        proxies.insert((id, node), proxy);
                    }
                }
                text = text.replace(&line, &format!("{key}{}", peers.join(",")));
            }
            fs::write(&file, text).expect("the properties");
        }
        Self { proxies }
    }

    /// Nothing passes between the node and the others any more, in either direction; connections stay open.
    pub(crate) fn cut(&self, node: u32) {
        for (ends, proxy) in &self.proxies {
            if ends.0 == node || ends.1 == node {
                proxy.set(Fate::Hold, Fate::Hold);
            }
        }
    }

    /// What the node sends arrives; what is sent to it does not.
    pub(crate) fn deafen(&self, node: u32) {
        for (ends, proxy) in &self.proxies {
            if ends.0 == node {
                proxy.set(Fate::Pass, Fate::Hold);
            } else if ends.1 == node {
                proxy.set(Fate::Hold, Fate::Pass);
            }
        }
    }
}
